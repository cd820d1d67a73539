"""Measure how good the models that ship are, for weights/README.md.

    uv run python -m benchmarks.weights OUT MODEL... --listing LISTING.jsonl --cache DIR [--parts heldout,labels,...]

LISTING lists the tracks that the models were trained on (tools/corpus.py). DIR is the --cache-dir of that training and
holds the teachers' scores. Every model scores tracks as in a scan. OUT/PART.md has the table, OUT/PART.json all
metrics. OUT/predictions keeps the scores, so that an interrupted run continues; another OUT starts from the beginning.

heldout      tracks held out by artist and package: AUC of each tag against the teachers' decisions, rank correlation,
             and how often the nearest neighbour by embedding is of the same album
labels       labels assigned by people, which no model was trained on: genres in file tags, styles in a catalogue
genres       the first genre that a scan would write, and whether it fits the label
instruments  General MIDI instruments, each alone (fluidsynth and two soundfonts): AUC, and how many recordings of the
             instrument and of others get its tag
robustness   the same music as MP3, Opus, resampled, at another level, with noise
clips        the highest tags of the files in --clips, if any
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.papers import Results
from benchmarks.rank import rank_correlation, same_album_neighbours
from benchmarks.weights_audio import INSTRUMENTS, VARIANTS, Contender, render_instruments, write_variants
from musictagger.audio.frontend import FrontEnd
from musictagger.config import load_settings
from musictagger.datasets import read_dataset
from musictagger.errors import BadRequestError, MusictaggerError, printable
from musictagger.evaluation.bootstrap import mean_defined
from musictagger.evaluation.metrics import auc_roc
from musictagger.models.find import find_or_pull
from musictagger.models.inference import Predictor
from musictagger.models.weights import load_model
from musictagger.pipeline.pool import Decoding
from musictagger.progress import SILENT
from musictagger.records import FloatArray
from musictagger.scores.genres import GenreChoice, chooser, ranked, thresholds
from musictagger.training.distillation.targets import CachedTeachers, decisions
from musictagger.training.distillation.teacher_scores import load_teachers
from musictagger.training.melcache.cache import MelCache
from tools.corpus import listing_lines
from tools.tables import Table, markdown

WORST = 10
FEWEST = 3
"""Minimum number of tracks with a label; an AUC of fewer is meaningless."""
ROBUST_TRACKS = 24
LABEL_WORDS: Mapping[str, frozenset[str]] = {
    "Classical": frozenset({"classical", "orchestral"}),
    "Metal": frozenset({"metal"}),
    "Electronic": frozenset({"electronic", "house", "techno"}),
    "Ambient": frozenset({"ambient"}),
    "Jazz": frozenset({"jazz"}),
    "Folk": frozenset({"folk"}),
    "Hip-Hop": frozenset({"hip-hop"}),
    "Dance": frozenset({"dance"}),
    "Country": frozenset({"country"}),
    "Funk": frozenset({"funk"}),
    "Indian": frozenset({"indian"}),
    "Piano": frozenset({"piano"}),
}
"""Tags, and the words in labels that mean them."""

FITTING: Mapping[str, frozenset[str]] = {
    style: frozenset(genres.split(", "))
    for style, genres in {
        "electronic/ambient/chill": "Electronic, Ambient, Electronica, New Age, Dance, House, Techno, Electro",
        "classical/piano/strings": "Classical",
        "folk/acoustic": "Folk, Country, Blues, Indie, Indie Pop",
        "hip-hop/rap beats": "Hip-Hop, R&B, Funk, Soul",
        "disco/dance/house/techno": "Dance, House, Techno, Electronic, Electro, Electronica, Funk",
        "jazz/ragtime/lounge": "Jazz, Blues, Easy Listening, Soul",
        "latin/world/indian/polka": "Indian, Folk, Country",
        "R&B/funk/soul": "Funk, Soul, R&B, Blues, Jazz, Dance",
        "country/bluegrass/blues": "Country, Blues, Folk",
        "metal/rock/punk": "Metal, Heavy Metal, Hard Rock, Rock, Punk, Alternative, Classic Rock, Alternative Rock",
        "Romantic Classical": "Classical",
        "Death Metal": "Metal, Heavy Metal, Hard Rock, Rock",
        "Female Fronted Metal": "Metal, Heavy Metal, Hard Rock, Rock",
    }.items()
}
"""Genres that fit a style or a genre of the listing; no other genre fits."""


@dataclass(frozen=True)
class Bench:
    """The input of every part."""

    out: Path
    contenders: Sequence[Contender]
    listing: Path
    cache: Path
    clips: Sequence[Path]

    @cached_property
    def lines(self) -> Mapping[Path, Mapping[str, Any]]:
        """The lines of the listing by path."""
        return listing_lines(self.listing)

    @cached_property
    def held_out(self) -> tuple[Path, ...]:
        """The tracks of the test split."""
        return tuple(example.path for example in read_dataset("music", self.listing).split("test"))


def main() -> None:
    """Measure the parts, write and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--listing", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--clips", type=Path, nargs="*", default=[])
    parser.add_argument("--parts", help=f"of {','.join(PARTS)}; default: all, clips only with --clips")
    arguments = parser.parse_args()
    parts = [part for part in PARTS if part != "clips" or arguments.clips]
    if arguments.parts:
        parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        settings = load_settings({})
        contenders = [
            Contender(
                Predictor(load_model(find_or_pull(name, settings.model_folders), settings.plugin_folders)),
                arguments.out / "predictions",
            )
            for name in arguments.models
        ]
        bench = Bench(arguments.out, contenders, arguments.listing, arguments.cache, arguments.clips)
        for part in parts:
            _measure(bench, part)
    except MusictaggerError as error:
        parser.error(str(error))


def _measure(bench: Bench, part: str) -> None:
    table, results = PARTS[part](bench)
    text = markdown(table) + "\n"
    (bench.out / f"{part}.md").write_text(text, encoding="utf-8")
    (bench.out / f"{part}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"## {part}\n\n{text}", flush=True)


def held_out(bench: Bench) -> tuple[Table, Results]:
    """Compare with the teachers' decisions, each model on those of the teachers' tags that it has."""
    tags, targets = _soft_targets(bench)
    table = [["model", "tags", "macro AUC", "rank correlation", "same album nearest (chance)", "worst ten"]]
    found: Results = {}
    for each in bench.contenders:
        results = _against(each, bench, tags, targets)
        by_tag, near = results["auc"], results["same_album"]
        worst = sorted(by_tag, key=lambda tag: by_tag[tag])[:WORST]
        table.append(
            [
                each.card.name,
                str(len(by_tag)),
                f"{results['macro_auc']:.3f}",
                f"{np.nanmean(list(results['rank_correlation'].values())):.3f}",
                f"{near['share']:.2f} ({near['chance']:.2f})",
                ", ".join(f"{tag} {by_tag[tag]:.2f}" for tag in worst),
            ]
        )
        found[each.card.name] = results
    return table, found


def _soft_targets(bench: Bench) -> tuple[tuple[str, ...], Mapping[Path, FloatArray]]:
    """The teachers' tags, and their scores of each held-out track that they have scored, float32 [tags]."""
    settings = load_settings({})
    trained = (each.card.training.get("options", {}).get("teachers") for each in bench.contenders)
    names = next(filter(None, trained), None)
    if names is None:
        raise BadRequestError("none of the models was trained with teachers; name one that was")
    teachers = CachedTeachers(load_teachers(names, settings), bench.cache)
    digests = MelCache(bench.cache, FrontEnd()).digests(bench.held_out, decoding=Decoding(1), progress=SILENT)
    targets = {path: teachers.track_scores(digest) for path, digest in digests.items() if teachers.has(digest)}
    if not targets:
        raise BadRequestError(
            f"{printable(bench.cache)}: has teachers' scores for none of {len(bench.held_out):,} held-out tracks; "
            "give the --cache-dir that the models were trained with"
        )
    return tuple(teachers.tags), targets


def _against(each: Contender, bench: Bench, tags: Sequence[str], targets: Mapping[Path, FloatArray]) -> Results:
    predicted = each.predict(list(targets))
    shared = [tag for tag in each.tags if tag in tags]
    ours = predicted.scores[:, [each.tags.index(tag) for tag in shared]]
    theirs = np.stack([targets[path] for path in predicted.paths])[:, [tags.index(tag) for tag in shared]]
    auc = auc_roc(decisions(theirs), ours, shared)
    # A track without an album is an album of its own.
    albums = [str(bench.lines[path].get("album") or path) for path in predicted.paths]
    return {
        "tracks": len(predicted.paths),
        "macro_auc": float(mean_defined(auc)),
        "auc": dict(zip(shared, auc.tolist(), strict=True)),
        "rank_correlation": dict(zip(shared, rank_correlation(ours, theirs).tolist(), strict=True)),
        "same_album": vars(same_album_neighbours(predicted.embeddings, albums)),
    }


def labels(bench: Bench) -> tuple[Table, Results]:
    """AUC of a tag: tracks whose label means it, against tracks with other labels of the same kind."""
    table = [["tag", "kind", "tracks", *(each.card.name for each in bench.contenders)]]
    found: Results = {}
    labelled = [path for path, line in bench.lines.items() if line.get("genre") or line.get("style")]
    scores_of: dict[str, dict[Path, FloatArray]] = {}
    for each in bench.contenders:
        predicted = each.predict(labelled)
        scores_of[each.card.name] = dict(zip(predicted.paths, predicted.scores, strict=True))
    # Only tracks that all models have scored, so that they are compared on the same ones.
    everywhere = set.intersection(*map(set, scores_of.values()))
    for kind in ("genre", "style"):
        words_of = {path: _label_words(bench.lines[path].get(kind)) for path in labelled if path in everywhere}
        for tag, meaning in LABEL_WORDS.items():
            truth = {path: bool(words & meaning) for path, words in words_of.items() if words}
            if sum(truth.values()) < FEWEST:
                continue
            flags = np.array([[flag] for flag in truth.values()])
            cells = []
            for each in bench.contenders:
                if tag not in each.tags:
                    cells.append("")
                    continue
                scores = np.stack([scores_of[each.card.name][path] for path in truth])
                auc = float(auc_roc(flags, scores[:, [each.tags.index(tag)]], [tag])[0])
                cells.append(f"{auc:.3f}")
                found.setdefault(f"{tag}, {kind}", {})[each.card.name] = auc
            table.append([tag, kind, f"{sum(truth.values())} of {len(truth)}", *cells])
    return table, found


def _label_words(text: object) -> set[str]:
    return set(re.findall(r"[a-z&-]+", str(text or "").lower()))


def genres(bench: Bench) -> tuple[Table, Results]:
    """The first genre that a scan would write: how many tracks get one, and on how many of those it fits."""
    kinds = {path: line.get("style") or line.get("genre") for path, line in bench.lines.items()}
    labelled = [path for path, kind in kinds.items() if kind in FITTING]
    table = [
        ["kind", "tracks", *(f"{each.card.name}: {what}" for each in bench.contenders for what in ("given", "fit"))]
    ]
    found: Results = {}
    for each in bench.contenders:
        choose, predicted = chooser(each.card, GenreChoice(max_genres=1)), each.predict(labelled)
        found[each.card.name] = {kind: {"tracks": 0, "given": 0, "fit": 0} for kind in FITTING}
        for path, scores in zip(predicted.paths, predicted.scores, strict=True):
            counts, chosen = found[each.card.name][str(kinds[path])], choose(scores)
            counts["tracks"] += 1
            counts["given"] += bool(chosen)
            counts["fit"] += bool(chosen) and chosen[0] in FITTING[str(kinds[path])]
        found[each.card.name]["all"] = {
            what: sum(counts[what] for counts in found[each.card.name].values()) for what in ("tracks", "given", "fit")
        }
    for kind in (*FITTING, "all"):
        cells = [str(max(one[kind]["tracks"] for one in found.values()))]
        for counts in (one[kind] for one in found.values()):
            cells += [
                f"{counts['given'] / max(1, counts['tracks']):.0%}",
                f"{counts['fit'] / max(1, counts['given']):.0%}",
            ]
        table.append([kind, *cells])
    return table, found


def instruments(bench: Bench) -> tuple[Table, Results]:
    """AUC of an instrument's tag, its recordings against all others, and how many of both get the tag."""
    if not any(tag in each.tags for each in bench.contenders for tag in INSTRUMENTS):
        raise BadRequestError(f"none of the models knows any of: {', '.join(INSTRUMENTS)}")
    recordings = render_instruments(bench.out / "instruments")
    table = [["instrument", "recordings", *(each.card.name for each in bench.contenders)]]
    predicted = {each.card.name: each.predict(list(recordings)) for each in bench.contenders}
    found: Results = {}
    for tag in INSTRUMENTS:
        cells = []
        for each in bench.contenders:
            if tag not in each.tags:
                cells.append("")
                continue
            model = predicted[each.card.name]
            results = _given(each, tag, model.scores, np.array([recordings[path] == tag for path in model.paths]))
            cells.append(f"{results['auc']:.3f}; {results['own_given']:.0%} / {results['others_given']:.0%}")
            found.setdefault(tag, {})[each.card.name] = results
        table.append([tag, str(sum(name == tag for name in recordings.values())), *cells])
    return table, found


def _given(each: Contender, tag: str, scores: FloatArray, own: npt.NDArray[np.bool_]) -> Results:
    """From scores [tracks, tags]: AUC, mean score and the share with the tag, for `own` tracks and the others."""
    column = each.tags.index(tag)
    values = scores[:, column]
    given = values >= thresholds(each.card)[column]
    return {
        "auc": float(auc_roc(own[:, None], values[:, None], [tag])[0]),
        "own_given": float(given[own].mean()),
        "others_given": float(given[~own].mean()),
        "own_mean": float(values[own].mean()),
        "others_mean": float(values[~own].mean()),
    }


def robustness(bench: Bench) -> tuple[Table, Results]:
    """The change of scores, and the share of tracks whose first written genre changes or disappears."""
    step = max(1, len(bench.held_out) // ROBUST_TRACKS)
    versions = write_variants(bench.held_out[::step][:ROBUST_TRACKS], bench.out / "variants")
    heading = [f"{each.card.name}: {what}" for each in bench.contenders for what in ("mean change", "genre changes")]
    table = [["variant", *heading]]
    found: Results = {}
    rows: dict[str, list[str]] = {variant: [] for variant in VARIANTS}
    for each in bench.contenders:
        choose = chooser(each.card, GenreChoice())
        # All at once, so that the decoding processes start only once; then each variant from memory.
        each.predict([path for paths in versions.values() for path in paths])
        predicted = {variant: each.predict(paths) for variant, paths in versions.items()}
        plain = predicted["plain"]
        for variant in VARIANTS:
            pairs = [
                (plain.of(one), predicted[variant].of(other))
                for one, other in zip(versions["plain"], versions[variant], strict=True)
            ]
            change = float(np.mean([np.abs(one - other).mean() for one, other in pairs]))
            altered = float(np.mean([choose(one)[:1] != choose(other)[:1] for one, other in pairs]))
            rows[variant] += [f"{change:.4f}", f"{altered:.0%}"]
            found.setdefault(variant, {})[each.card.name] = {"mean_change": change, "genre_changes": altered}
    return [*table, *([variant, *cells] for variant, cells in rows.items())], found


def clips(bench: Bench) -> tuple[Table, Results]:
    """The four highest tags of each file."""
    table = [["file", *(each.card.name for each in bench.contenders)]]
    found: Results = {}
    predicted = [(each, each.predict(bench.clips)) for each in bench.contenders]
    for path in bench.clips:
        highest = {
            each.card.name: [(tag.name, score) for tag, score in ranked(model.of(path), each.card.tags)[:4]]
            for each, model in predicted
        }
        found[path.name] = highest
        table.append(
            [path.stem, *(", ".join(f"{tag} {score:.2f}" for tag, score in tags) for tags in highest.values())]
        )
    return table, found


PARTS: Mapping[str, Callable[[Bench], tuple[Table, Results]]] = {
    "heldout": held_out,
    "labels": labels,
    "genres": genres,
    "instruments": instruments,
    "robustness": robustness,
    "clips": clips,
}

if __name__ == "__main__":
    main()

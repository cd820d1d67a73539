"""How good are the models that ship? Figures for weights/README.md.

    uv run python -m benchmarks.weights OUT MODEL... --listing LISTING.jsonl --cache DIR [--parts heldout,labels,...]

LISTING is what the models were trained on (tools/corpus.py), DIR the --cache-dir of that training, in which the
teachers' scores lie. Every model is asked by the way a scan asks it. OUT/PART.md has the table, OUT/PART.json all
figures. What models heard is kept in OUT/heard, so that a run that is begun again goes on; another OUT hears anew.

heldout      tracks held out by artist and package: AUC of each tag against the teachers' decisions, rank correlation,
             and how often the nearest by embedding is of the same album
labels       words that people gave: genres in file tags, styles in a catalogue; nobody trained on them
genres       the first genre that a scan would write, and whether it fits what people said
instruments  General MIDI instruments, each alone (fluidsynth and two soundfonts): AUC, and how many recordings of the
             instrument and of others get its tag
robustness   the same music as MP3, Opus, resampled, louder, softer, with noise
clips        the first words for the files in --clips, where there are some
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

from benchmarks.papers import Figures, Table, markdown
from benchmarks.weights_sounds import INSTRUMENTS, VARIANTS, Contender, render_instruments, write_variants
from musictagger.audio.frontend import FrontEnd
from musictagger.config import load_settings
from musictagger.datasets import read_dataset
from musictagger.errors import BadRequestError, MusictaggerError, printable
from musictagger.evaluation.metrics import auc_roc
from musictagger.evaluation.rank import rank_correlation, same_album_neighbours
from musictagger.models.find import find_or_pull
from musictagger.models.inference import Predictor
from musictagger.models.weights import load_model
from musictagger.progress import Silent
from musictagger.records import FloatArray
from musictagger.scores.genres import GenreChoice, chooser, ranked, thresholds
from musictagger.training.distillation.targets import Teachers, decisions, load_teachers
from musictagger.training.melcache.cache import MelCache
from tools.corpus import listing_lines

WORST = 10
FEWEST = 3
"""Tracks with a word; on fewer an AUC says nothing."""
ROBUST_TRACKS = 24
WORDS: Mapping[str, frozenset[str]] = {
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
"""Tags, and those of people's words that mean them."""


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
"""Genres that fit a style or a genre in the listing; all others do not."""


@dataclass(frozen=True)
class Bench:
    """What all parts are given."""

    out: Path
    contenders: Sequence[Contender]
    listing: Path
    cache: Path
    clips: Sequence[Path]

    @cached_property
    def lines(self) -> Mapping[Path, Mapping[str, Any]]:
        """The listing by path."""
        return listing_lines(self.listing)

    @cached_property
    def held_out(self) -> tuple[Path, ...]:
        """The tracks of the test split."""
        return tuple(example.path for example in read_dataset("music", self.listing).split("test"))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--listing", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--clips", type=Path, nargs="*", default=[])
    parser.add_argument("--parts", help=f"of {','.join(PARTS)}; all, clips if there are some, unless told otherwise")
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
                arguments.out / "heard",
            )
            for name in arguments.models
        ]
        bench = Bench(arguments.out, contenders, arguments.listing, arguments.cache, arguments.clips)
        for part in parts:
            _measure(bench, part)
    except MusictaggerError as error:
        parser.error(str(error))


def _measure(bench: Bench, part: str) -> None:
    table, figures = PARTS[part](bench)
    text = markdown(table) + "\n"
    (bench.out / f"{part}.md").write_text(text, encoding="utf-8")
    (bench.out / f"{part}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"## {part}\n\n{text}", flush=True)


def held_out(bench: Bench) -> tuple[Table, Figures]:
    """Against the teachers' decisions. A model that lacks some of the words is compared on those it has."""
    words, taught = _taught(bench)
    table = [["model", "words", "macro AUC", "rank correlation", "same album nearest (chance)", "worst ten"]]
    found: Figures = {}
    for each in bench.contenders:
        figures = _against(each, bench, words, taught)
        by_tag, near = figures["auc"], figures["same_album"]
        worst = sorted(by_tag, key=lambda tag: by_tag[tag])[:WORST]
        table.append(
            [
                each.card.name,
                str(len(by_tag)),
                f"{figures['macro_auc']:.3f}",
                f"{np.nanmean(list(figures['rank_correlation'].values())):.3f}",
                f"{near['share']:.2f} ({near['chance']:.2f})",
                ", ".join(f"{tag} {by_tag[tag]:.2f}" for tag in worst),
            ]
        )
        found[each.card.name] = figures
    return table, found


def _taught(bench: Bench) -> tuple[tuple[str, ...], Mapping[Path, FloatArray]]:
    """The teachers' words, and what they say of each held-out track that they have heard, float32 [words]."""
    settings = load_settings({})
    said = (each.card.training.get("options", {}).get("teachers") for each in bench.contenders)
    names = next(filter(None, said), None)
    if names is None:
        raise BadRequestError("none of the models was trained by teachers; name one that was")
    teachers = Teachers(load_teachers(names, settings), bench.cache)
    digests = MelCache(bench.cache, FrontEnd()).digests(bench.held_out, workers=1, progress=Silent())
    taught = {path: teachers.track_labels(digest) for path, digest in digests.items() if teachers.has(digest)}
    if not taught:
        raise BadRequestError(
            f"{printable(bench.cache)}: the teachers' scores of none of {len(bench.held_out):,} held-out tracks are "
            "there; give the --cache-dir that the models were trained with"
        )
    return tuple(teachers.tags), taught


def _against(each: Contender, bench: Bench, words: Sequence[str], taught: Mapping[Path, FloatArray]) -> Figures:
    heard = each.hear(list(taught))
    shared = [tag for tag in each.tags if tag in words]
    ours = heard.scores[:, [each.tags.index(tag) for tag in shared]]
    theirs = np.stack([taught[path] for path in heard.paths])[:, [words.index(tag) for tag in shared]]
    auc = auc_roc(decisions(theirs), ours, shared)
    # A track without an album is of nobody else's.
    albums = [str(bench.lines[path].get("album") or path) for path in heard.paths]
    return {
        "tracks": len(heard.paths),
        "macro_auc": auc.macro,
        "auc": {tag: float(auc.per_tag[tag]) for tag in shared},
        "rank_correlation": dict(zip(shared, rank_correlation(ours, theirs).tolist(), strict=True)),
        "same_album": vars(same_album_neighbours(heard.embeddings, albums)),
    }


def labels(bench: Bench) -> tuple[Table, Figures]:
    """AUC of a tag: tracks whose word means it, against tracks with other words of the same kind."""
    table = [["tag", "kind", "tracks", *(each.card.name for each in bench.contenders)]]
    found: Figures = {}
    with_words = [path for path, line in bench.lines.items() if line.get("genre") or line.get("style")]
    heard: dict[str, dict[Path, FloatArray]] = {}
    for each in bench.contenders:
        model = each.hear(with_words)
        heard[each.card.name] = dict(zip(model.paths, model.scores, strict=True))
    # What all have heard: else models would be compared on different tracks.
    everywhere = set.intersection(*map(set, heard.values()))
    for kind in ("genre", "style"):
        said = {path: _words(bench.lines[path].get(kind)) for path in with_words if path in everywhere}
        for tag, parts in WORDS.items():
            truth = {path: bool(words & parts) for path, words in said.items() if words}
            if sum(truth.values()) < FEWEST:
                continue
            flags = np.array([[flag] for flag in truth.values()])
            cells = []
            for each in bench.contenders:
                if tag not in each.tags:
                    cells.append("")
                    continue
                scores = np.stack([heard[each.card.name][path] for path in truth])
                auc = auc_roc(flags, scores[:, [each.tags.index(tag)]], [tag]).macro
                cells.append(f"{auc:.3f}")
                found.setdefault(f"{tag}, {kind}", {})[each.card.name] = auc
            table.append([tag, kind, f"{sum(truth.values())} of {len(truth)}", *cells])
    return table, found


def _words(text: object) -> set[str]:
    return set(re.findall(r"[a-z&-]+", str(text or "").lower()))


def genres(bench: Bench) -> tuple[Table, Figures]:
    """The first genre that a scan would write: on how many tracks there is one, and on how many of those it fits."""
    kinds = {path: line.get("style") or line.get("genre") for path, line in bench.lines.items()}
    asked = [path for path, kind in kinds.items() if kind in FITTING]
    table = [
        ["kind", "tracks", *(f"{each.card.name}: {what}" for each in bench.contenders for what in ("given", "fit"))]
    ]
    found: Figures = {}
    for each in bench.contenders:
        choose, heard = chooser(each.card, GenreChoice(max_genres=1)), each.hear(asked)
        found[each.card.name] = {kind: {"tracks": 0, "given": 0, "fit": 0} for kind in FITTING}
        for path, scores in zip(heard.paths, heard.scores, strict=True):
            counts, said = found[each.card.name][str(kinds[path])], choose(scores)
            counts["tracks"] += 1
            counts["given"] += bool(said)
            counts["fit"] += bool(said) and said[0] in FITTING[str(kinds[path])]
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


def instruments(bench: Bench) -> tuple[Table, Figures]:
    """AUC of an instrument's tag: its recordings against those of all others; and how many of both get the tag."""
    if not any(tag in each.tags for each in bench.contenders for tag in INSTRUMENTS):
        raise BadRequestError(f"none of the models knows any of: {', '.join(INSTRUMENTS)}")
    recordings = render_instruments(bench.out / "instruments")
    table = [["instrument", "recordings", *(each.card.name for each in bench.contenders)]]
    heard = {each.card.name: each.hear(list(recordings)) for each in bench.contenders}
    found: Figures = {}
    for tag in INSTRUMENTS:
        cells = []
        for each in bench.contenders:
            if tag not in each.tags:
                cells.append("")
                continue
            model = heard[each.card.name]
            figures = _given(each, tag, model.scores, np.array([recordings[path] == tag for path in model.paths]))
            cells.append(f"{figures['auc']:.3f}; {figures['own_given']:.0%} / {figures['others_given']:.0%}")
            found.setdefault(tag, {})[each.card.name] = figures
        table.append([tag, str(sum(name == tag for name in recordings.values())), *cells])
    return table, found


def _given(each: Contender, tag: str, scores: FloatArray, own: npt.NDArray[np.bool_]) -> Figures:
    """Of scores [tracks, tags]: AUC, mean score and how many get the tag, of those that are `own` and the others."""
    column = each.tags.index(tag)
    values = scores[:, column]
    given = values >= thresholds(each.card)[column]
    return {
        "auc": auc_roc(own[:, None], values[:, None], [tag]).macro,
        "own_given": float(given[own].mean()),
        "others_given": float(given[~own].mean()),
        "own_mean": float(values[own].mean()),
        "others_mean": float(values[~own].mean()),
    }


def robustness(bench: Bench) -> tuple[Table, Figures]:
    """How far scores move, and on how many tracks the first written genre is another one (or none)."""
    step = max(1, len(bench.held_out) // ROBUST_TRACKS)
    versions = write_variants(bench.held_out[::step][:ROBUST_TRACKS], bench.out / "variants")
    heading = [f"{each.card.name}: {what}" for each in bench.contenders for what in ("mean change", "genre changes")]
    table = [["variant", *heading]]
    found: Figures = {}
    rows: dict[str, list[str]] = {variant: [] for variant in VARIANTS}
    for each in bench.contenders:
        choose = chooser(each.card, GenreChoice())
        # All at once, for one start of the processes that decode; then each from memory.
        each.hear([path for paths in versions.values() for path in paths])
        heard = {variant: each.hear(paths) for variant, paths in versions.items()}
        plain = heard["plain"]
        for variant in VARIANTS:
            pairs = [
                (plain.of(one), heard[variant].of(other))
                for one, other in zip(versions["plain"], versions[variant], strict=True)
            ]
            change = float(np.mean([np.abs(one - other).mean() for one, other in pairs]))
            changed = float(np.mean([choose(one)[:1] != choose(other)[:1] for one, other in pairs]))
            rows[variant] += [f"{change:.4f}", f"{changed:.0%}"]
            found.setdefault(variant, {})[each.card.name] = {"mean_change": change, "genre_changes": changed}
    return [*table, *([variant, *cells] for variant, cells in rows.items())], found


def clips(bench: Bench) -> tuple[Table, Figures]:
    """The first words of each file."""
    table = [["file", *(each.card.name for each in bench.contenders)]]
    found: Figures = {}
    heard = [(each, each.hear(bench.clips)) for each in bench.contenders]
    for path in bench.clips:
        words = {
            each.card.name: [(tag.name, score) for tag, score in ranked(model.of(path), each.card.tags)[:4]]
            for each, model in heard
        }
        found[path.name] = words
        table.append([path.stem, *(", ".join(f"{tag} {score:.2f}" for tag, score in said) for said in words.values())])
    return table, found


PARTS: Mapping[str, Callable[[Bench], tuple[Table, Figures]]] = {
    "heldout": held_out,
    "labels": labels,
    "genres": genres,
    "instruments": instruments,
    "robustness": robustness,
    "clips": clips,
}

if __name__ == "__main__":
    main()

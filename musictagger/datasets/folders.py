"""One folder per genre: music sorted by hand, or any set in GTZAN's layout.

MUSIC/blues/any/depth/track.mp3    MUSIC/jazz/other.flac
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from musictagger.audio.walk import FoundFile, absolute, walk
from musictagger.datasets.base import Dataset, Example, artist_key, tag_names
from musictagger.datasets.reading import music_files, read_file_tags, require_folder
from musictagger.datasets.splitting import RandomSplit, Tracks, groups_per_tag
from musictagger.errors import BadRequestError, printable

NAME = "folders"
SOURCE = "your own folders, one per genre"
LICENCE = "that of the music"


def read(folder: Path, *, valid: float = 0.15, test: float = 0.15, seed: int = 0, artists: bool = True) -> Dataset:
    """Every music file in each folder of `folder`, whose name is the genre.

    The split is drawn by `seed`, `valid` and `test` being shares of the tracks of each genre. With `artists`, the
    files' tags are read and each artist is in one split; without, artists are ignored.
    Raises BadRequestError for a folder without genres, and for a genre with too few tracks or artists to be split.
    """
    split = RandomSplit(valid, test, seed)
    root = absolute(folder)
    found, missing, notes = _find(root)
    if artists:
        found = {key: replace(track, artist=read_file_tags(track.path).artist) for key, track in found.items()}
    _require_enough(found, len(split.shares))
    splits = split.draw(found)
    examples = tuple(replace(track, split=splits[key]) for key, track in found.items())
    genres = tag_names(examples)
    notes.append(f"{split}, of every genre; {_artist_note(examples) if artists else 'artists are ignored'}")
    return Dataset(NAME, "genre", genres, examples, missing, tuple(notes), dict.fromkeys(genres, "genre"))


def _find(root: Path) -> tuple[dict[str, Example], tuple[Path, ...], list[str]]:
    """Tracks by path inside `root`, sorted; empty or unreadable files; notes on what was left out."""
    require_folder(root)
    found: dict[str, Example] = {}
    missing: list[Path] = []
    empty = []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        _require_name(folder)
        files, unreadable = music_files(folder)
        missing += unreadable
        if not files:
            empty.append(folder.name)
        for path in files:
            found[path.relative_to(root).as_posix()] = Example(path, (folder.name,), "train")
    if not found:
        raise BadRequestError(f"{printable(root)}: no music in folders; expected one folder per genre: GENRE/track.mp3")
    notes = [f"folders without music: {', '.join(empty)}"] if empty else []
    if loose := sum(isinstance(entry, FoundFile) and entry.path.parent == root for entry in walk([root])):
        notes.append(f"{loose} files beside the folders have no genre")
    return found, tuple(missing), notes


def _require_name(folder: Path) -> None:
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise BadRequestError(f"{printable(folder)}: the name of a genre's folder must be UTF-8; rename it") from None


def _require_enough(found: Tracks, splits: int) -> None:
    tracks = Counter(track.tags[0] for track in found.values())
    for genre, artists in sorted(groups_per_tag(found).items()):
        if tracks[genre] < splits:
            raise BadRequestError(
                f"genre {genre!r} has {tracks[genre]} tracks; {splits} are the fewest that can be split. "
                "Add some, or remove the folder"
            )
        if artists < splits:
            raise BadRequestError(
                f"the {tracks[genre]} tracks of genre {genre!r} are by {artists} artists; splits that share no artist "
                f"need {splits}. Add music by others, or set artists=false to split regardless"
            )


def _artist_note(examples: Sequence[Example]) -> str:
    known = sum(artist_key(example.artist) is not None for example in examples)
    return f"no artist in two splits, as far as they are known ({known:,} of {len(examples):,} tracks)"

"""One folder a genre: music sorted by hand, or any set in GTZAN's layout.

MUSIC/blues/any/depth/track.mp3    MUSIC/jazz/other.flac
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from musictagger.audio.walk import FoundFile, WalkProblem, absolute, walk
from musictagger.datasets.base import Dataset, Example, artist_key, tag_names
from musictagger.datasets.reading import present, read_file_tags, require_folder
from musictagger.datasets.splitting import Item, RandomSplit, groups_per_tag
from musictagger.errors import BadRequestError, printable

NAME = "folders"
SOURCE = "your own folders, one a genre"
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
    items = [
        Item(key, (genre,), read_file_tags(path).artist if artists else None) for key, (path, genre) in found.items()
    ]
    _require_enough(items, len(split.shares))
    splits = split.draw(items)
    examples = tuple(Example(found[item.key][0], item.tags, splits[item.key], item.artist) for item in items)
    genres = tag_names(examples)
    notes.append(f"{split}, of every genre; {_artist_note(items) if artists else 'artists were not looked at'}")
    return Dataset(NAME, "genre", genres, examples, missing, tuple(notes), dict.fromkeys(genres, "genre"))


def _find(root: Path) -> tuple[dict[str, tuple[Path, str]], tuple[Path, ...], list[str]]:
    """File and genre by path inside `root`, sorted; empty or unreadable files; notes on what was left out."""
    require_folder(root)
    found: dict[str, tuple[Path, str]] = {}
    missing: list[Path] = []
    empty = []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        _require_name(folder)
        before = len(found)
        for entry in walk([folder]):
            if isinstance(entry, WalkProblem) or (isinstance(entry, FoundFile) and not present(entry.path)):
                missing.append(entry.path)
            elif isinstance(entry, FoundFile):
                found[entry.path.relative_to(root).as_posix()] = (entry.path, folder.name)
        if len(found) == before:
            empty.append(folder.name)
    if not found:
        raise BadRequestError(f"{printable(root)}: no music in folders; expected one folder a genre: GENRE/track.mp3")
    notes = [f"folders without music: {', '.join(empty)}"] if empty else []
    loose = sum(isinstance(entry, FoundFile) and entry.path.parent == root for entry in walk([root]))
    return found, tuple(missing), [*notes, *([f"{loose} files beside the folders have no genre"] if loose else [])]


def _require_name(folder: Path) -> None:
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise BadRequestError(f"{printable(folder)}: the name of a genre's folder must be UTF-8; rename it") from None


def _require_enough(items: Sequence[Item], splits: int) -> None:
    tracks = groups_per_tag([Item(item.key, item.tags) for item in items])
    for genre, artists in sorted(groups_per_tag(items).items()):
        if tracks[genre] < splits:
            raise BadRequestError(
                f"genre {genre!r} has {tracks[genre]} tracks; {splits} are the fewest that can be split. "
                "Add some, or take the folder away"
            )
        if artists < splits:
            raise BadRequestError(
                f"the {tracks[genre]} tracks of genre {genre!r} are by {artists} artists; splits that share no artist "
                f"need {splits}. Add music by others, or set artists=false to split regardless"
            )


def _artist_note(items: Sequence[Item]) -> str:
    known = sum(artist_key(item.artist) is not None for item in items)
    return f"no artist in two splits, as far as they are known ({known:,} of {len(items):,} tracks)"

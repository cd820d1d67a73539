"""Write one listing for dataset `music` from catalogues of free music, with the artist and package of each track.

    uv run python -m tools.corpus OUT.jsonl CATALOGUE=FOLDER ...

A catalogue has JSON lines with `path` or `file` (in FOLDER, or in FOLDER/`package`), and optionally `artist`, `album`,
`genre`, `bucket` (a style), `seconds` and `music` (false for speech and sound effects of games). The listing has the
files that exist, without those that are known to be short.
The models that ship were trained on such a listing (weights/README.md).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from musictagger.audio.walk import absolute
from musictagger.datasets.reading import json_lines
from musictagger.errors import BadRequestError, MusictaggerError, clipped, printable

SHORTEST_S = 20.0
"""Jingles shorter than this are left out: repeated to fill a frame, they would teach repetition."""


def main() -> None:
    """Write the listing and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("catalogues", nargs="+", metavar="CATALOGUE=FOLDER")
    arguments = parser.parse_args()
    try:
        found = [record for pair in arguments.catalogues for record in records(*_pair(pair))]
    except MusictaggerError as error:
        parser.error(str(error))
    # ASCII, because readers that split lines as str does would split a name at U+2028 or U+0085.
    arguments.out.write_text("".join(json.dumps(record) + "\n" for record in found), encoding="ascii")
    print(summary(found))


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """The number of tracks and their total length."""
    known = [float(record["seconds"]) for record in found if record["seconds"] is not None]
    unknown = f", {len(found) - len(known):,} of unknown length not counted" if len(known) < len(found) else ""
    return f"{len(found):,} tracks, {sum(known) / 3600:.1f} h{unknown}"


def _pair(text: str) -> tuple[Path, Path]:
    catalogue, equals, folder = text.partition("=")
    if not equals:
        raise BadRequestError(f"{text!r} is not CATALOGUE=FOLDER")
    return Path(catalogue), Path(folder)


def records(catalogue: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The tracks of one catalogue that exist in its folder, as lines for dataset `music`."""
    for _, entry in json_lines(catalogue):
        # `game.pk3!inner.ogg` is unpacked beside the archive.
        inside = _name(entry, catalogue, ("path", "file")).replace("!", ".unzipped/")
        path = folder / (entry.get("package") or "") / inside
        seconds = None if entry.get("seconds") is None else float(entry["seconds"])
        short = seconds is not None and seconds < SHORTEST_S
        if not entry.get("music", True) or short or not path.is_file():
            continue
        artist = entry.get("artist")
        # The tracks of a package stay together in a split, with or without an artist.
        album = entry.get("package") or entry.get("album") or artist
        yield {
            "path": str(path.resolve()),
            "artist": artist,
            "album": album,
            "genre": entry.get("genre"),
            "style": entry.get("bucket"),
            "seconds": seconds,
        }


def listing_lines(listing: Path) -> dict[Path, Mapping[str, Any]]:
    """The lines of a listing by the absolute path of their file.

    Files are named as for dataset `music`, with `file` or `path`, relative to the folder of the listing. Raises
    BadRequestError for a line without either.
    """
    given = absolute(listing)
    return {absolute(given.parent / _name(line, given, ("file", "path"))): line for _, line in json_lines(given)}


def _name(line: Mapping[str, Any], path: Path, keys: tuple[str, str]) -> str:
    name = line.get(keys[0]) or line.get(keys[1])
    if not isinstance(name, str):
        raise BadRequestError(f'{printable(path)}: a line has neither "file" nor "path": {clipped(json.dumps(line))}')
    return name


if __name__ == "__main__":
    main()

"""One listing for dataset `music` out of catalogues of free music: who made what, and from which package it is.

    uv run python -m tools.corpus OUT.jsonl CATALOGUE=FOLDER ...

A catalogue is JSON lines with `path` or `file` (in FOLDER, or in FOLDER/`package`), and perhaps `artist`, `album`,
`genre`, `bucket` (a style), `seconds` and `music` (false for what is no music: voices, sounds of games). Only files
that are there count, and none of which it is known that it is short.
The project's own models are trained on such a listing (weights/README.md).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from musictagger.audio.walk import absolute
from musictagger.datasets.reading import bad_line, json_lines
from musictagger.errors import BadRequestError, MusictaggerError, clipped, printable

SHORTEST_S = 20.0
"""Jingles shorter than this are left out: repeated to a frame they teach repetition."""


def main() -> None:
    """Write the listing; say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("catalogues", nargs="+", metavar="CATALOGUE=FOLDER")
    arguments = parser.parse_args()
    try:
        found = [record for pair in arguments.catalogues for record in records(*_pair(pair))]
    except MusictaggerError as error:
        parser.error(str(error))
    # ASCII: readers that split lines as str does would split a name at U+2028 or U+0085.
    arguments.out.write_text("".join(json.dumps(record) + "\n" for record in found), encoding="ascii")
    print(said(found))


def said(found: Sequence[Mapping[str, Any]]) -> str:
    """How many tracks there are, and how long they are together."""
    known = [float(record["seconds"]) for record in found if record["seconds"] is not None]
    unknown = f", {len(found) - len(known):,} of unknown length not counted" if len(known) < len(found) else ""
    return f"{len(found):,} tracks, {sum(known) / 3600:.1f} h{unknown}"


def _pair(text: str) -> tuple[Path, Path]:
    catalogue, equals, folder = text.partition("=")
    if not equals:
        raise BadRequestError(f"{text!r} is no CATALOGUE=FOLDER")
    return Path(catalogue), Path(folder)


def records(catalogue: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The music of one catalogue that is in its folder, as dataset `music` takes it."""
    for entry in _objects(catalogue):
        # `game.pk3!inner.ogg` is unpacked beside the archive.
        inside = _name(entry, catalogue, ("path", "file")).replace("!", ".unzipped/")
        path = folder / (entry.get("package") or "") / inside
        seconds = None if entry.get("seconds") is None else float(entry["seconds"])
        short = seconds is not None and seconds < SHORTEST_S
        if not entry.get("music", True) or short or not path.is_file():
            continue
        artist = entry.get("artist")
        # Without an artist the package is what is kept together; it is kept together in any case.
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
    """All that a listing says of each file, by its absolute path.

    Files are named as for dataset `music`, with `file` or `path`, relative to where the listing lies. Raises
    BadRequestError for a line that names none.
    """
    given = absolute(listing)
    return {absolute(given.parent / _name(line, given, ("file", "path"))): line for line in _objects(given)}


def _objects(path: Path) -> Iterator[Mapping[str, Any]]:
    """The objects of a file of JSON lines. Raises BadRequestError with the line for what is none."""
    for number, values in json_lines(path):
        if not isinstance(values, dict):
            bad_line(path, number, "is no JSON object")
        yield values


def _name(line: Mapping[str, Any], path: Path, keys: tuple[str, str]) -> str:
    name = line.get(keys[0]) or line.get(keys[1])
    if not isinstance(name, str):
        raise BadRequestError(f'{printable(path)}: a line names no "file" and no "path": {clipped(json.dumps(line))}')
    return name


if __name__ == "__main__":
    main()

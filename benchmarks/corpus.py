"""One listing for dataset `music` out of catalogues of free music: who made what, and from which package it is.

    uv run python -m benchmarks.corpus OUT.jsonl CATALOGUE=FOLDER ...

A catalogue is JSON lines with `path` or `file` (in FOLDER, or in FOLDER/`package`), and perhaps `artist`, `album`,
`genre`, `bucket` (a style), `seconds` and `music` (false for what is no music: voices, sounds of games). Only files
that are there count.
The project's own models are trained on such a listing (weights/README.md).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SHORTEST_S = 20.0
"""Jingles shorter than this are left out: repeated to a frame they teach repetition."""


def main() -> None:
    """Write the listing; say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("catalogues", nargs="+", metavar="CATALOGUE=FOLDER")
    arguments = parser.parse_args()
    lines = []
    seconds = 0.0
    for pair in arguments.catalogues:
        catalogue, _, folder = pair.partition("=")
        for record in records(Path(catalogue), Path(folder)):
            lines.append(json.dumps(record, ensure_ascii=False))
            seconds += record["seconds"]
    arguments.out.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"{len(lines):,} tracks, {seconds / 3600:.1f} h")


def records(catalogue: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The music of one catalogue that is in its folder, as dataset `music` takes it."""
    for line in catalogue.read_text(encoding="utf-8").splitlines():
        entry: Mapping[str, Any] = json.loads(line)
        # `game.pk3!inner.ogg` is unpacked beside the archive.
        inside = (entry.get("path") or entry["file"]).replace("!", ".unzipped/")
        path = folder / entry.get("package", "") / inside
        seconds = float(entry.get("seconds") or 0.0)
        if not entry.get("music", True) or seconds < SHORTEST_S or not path.is_file():
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


if __name__ == "__main__":
    main()

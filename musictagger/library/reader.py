"""Reading a library: the models used and the tracks with their analyses.

The statements are plain SQL that SQLite and PostgreSQL share, so that a query need not import SQLAlchemy, which takes
longer than the query itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from musictagger.errors import ModelError, StoreError
from musictagger.models.card import Card
from musictagger.sqlite.connection import Advice, path_from_text, path_to_text, readable_errors

REVISION = "0001"
"""The migration that this version expects; a test compares it with the migrations folder."""

PRAGMAS = ("synchronous=NORMAL", "foreign_keys=ON")
LIBRARY_ADVICE = Advice(
    elsewhere="choose another place with --db",
    missing="there is no database yet; run `musictagger scan FOLDER` first, or name one with --db",
    damaged="restore a copy, or move it away and scan again",
)

PARTITION = 10_000
"""Tracks held in memory at a time while a whole library is read."""

CHUNK = 500
"""Paths in one statement; SQLite's oldest limit is 999 parameters."""


class Rows(Protocol):
    """The result of a statement: a cursor of sqlite3 or a result of SQLAlchemy."""

    def fetchmany(self, size: int) -> Sequence[Any]:
        """The next rows, at most `size` of them; empty at the end."""

    def fetchall(self) -> Sequence[Any]:
        """All remaining rows."""


@dataclass(frozen=True)
class TrackRow:
    """A file with the user's choice for it and its analysis by one model; None for what does not exist."""

    path: Path
    size: int
    mtime_ns: int
    digest: str | None
    container: str
    tag_system: str | None
    artist: str | None
    title: str | None
    album: str | None
    genres: tuple[str, ...]
    """The genres in the file's genre field."""
    fields: Mapping[str, Sequence[str]]
    """The raw values of each field that musictagger can write."""
    failure: str | None
    duration_s: float | None
    status: str | None
    padded: bool | None
    frames: int | None
    scores: bytes | None
    embedding: bytes | None
    analysed_at: datetime | None
    chosen_genres: Sequence[str] | None
    excluded_genres: Sequence[str] | None
    locked: bool | None


_TRACKS = """
    SELECT file.path, file.size, file.mtime_ns, audio.digest, file.container, file.tag_system,
           file.artist, file.title, file.album, file.genres, file.fields, file.failure, audio.duration_s,
           analysis.status, analysis.padded, analysis.frames, analysis.scores, analysis.embedding, analysis.analysed_at,
           choice.genres, choice.excluded, choice.locked
    FROM file
    LEFT JOIN audio ON audio.id = file.audio_id
    LEFT JOIN choice ON choice.audio_id = audio.id
    LEFT JOIN analysis ON analysis.audio_id = audio.id AND analysis.model_id = :model_id
    WHERE {condition} ORDER BY file.path
"""
_MODELS = """
    SELECT model.id, model.card FROM model
    WHERE EXISTS (SELECT 1 FROM analysis WHERE analysis.model_id = model.id)
    ORDER BY model.used_at DESC, model.id DESC
"""
_FAILURES = "SELECT path, failure FROM file WHERE failure IS NOT NULL AND NOT missing ORDER BY path"


class LibraryReader:
    """An open library that can be read. All methods raise StoreError, with advice, when the database fails."""

    def __init__(self, location: str, execute: Callable[[str, Mapping[str, Any]], Rows]) -> None:
        """`execute` runs one SQL statement with named parameters."""
        self.location = location
        self._execute = execute

    def _errors(self) -> AbstractContextManager[None]:
        return readable_errors(self.location, LIBRARY_ADVICE)

    def _model_rows(self) -> Sequence[Any]:
        with self._errors():
            return self._execute(_MODELS, {}).fetchall()

    def count_models(self) -> int:
        """The number of models that have analysed a track. Reads no card, which takes 10 ms each."""
        return len(self._model_rows())

    def models(self, limit: int | None = None) -> list[tuple[int, Card]]:
        """Models that have analysed a track, at most `limit`: id and card, the last used first."""
        rows = self._model_rows()[:limit]
        try:
            return [(id_, Card.from_json(json.loads(card) if isinstance(card, str) else card)) for id_, card in rows]
        except ModelError as error:
            raise StoreError(f"{self.location}: {error}; scan again with that model") from error

    def tracks(
        self, model_id: int, paths: Sequence[Path] | None = None, *, under: Sequence[Path] | None = None
    ) -> Iterator[list[TrackRow]]:
        """Files with their analysis by a model, sorted by path, in chunks.

        All that are not missing, or only those of them `under` some folders (or at these paths); or exactly `paths`.
        """
        if paths is not None:
            for start in range(0, len(paths), CHUNK):
                yield from self._tracks(model_id, *_in_paths(paths[start : start + CHUNK]))
        elif under is not None:
            condition, values = below(under)
            yield from self._tracks(model_id, f"NOT file.missing AND {condition}", values)
        else:
            yield from self._tracks(model_id, "NOT file.missing", {})

    def _tracks(self, model_id: int, condition: str, values: Mapping[str, str]) -> Iterator[list[TrackRow]]:
        with self._errors():
            rows = self._execute(_TRACKS.format(condition=condition), {"model_id": model_id, **values})
            # Fetched in parts: 500,000 tracks at once would take a gigabyte.
            while part := rows.fetchmany(PARTITION):
                yield [_track(row) for row in part]

    def failures(self) -> list[tuple[Path, str]]:
        """Files that could not be read or decoded, with the reason; sorted by path."""
        with self._errors():
            return [(path_from_text(path), reason) for path, reason in self._execute(_FAILURES, {}).fetchall()]


def _in_paths(paths: Sequence[Path]) -> tuple[str, dict[str, str]]:
    """Condition and parameters for files at exactly these paths."""
    values = {f"path{number}": path_to_text(path) for number, path in enumerate(paths)}
    return f"file.path IN ({', '.join(f':{name}' for name in values)})", values


def below(roots: Sequence[Path]) -> tuple[str, dict[str, str]]:
    """Condition and parameters for files at or below one of these paths."""
    condition, values = _in_paths(roots)
    for number, root in enumerate(roots):
        folder = path_to_text(root).rstrip("/") + "/"
        values[f"folder{number}"] = folder
        condition += f" OR substr(file.path, 1, {len(folder)}) = :folder{number}"
    return f"({condition})", values


_COLUMNS = tuple(field.name for field in dataclasses.fields(TrackRow))


def _track(row: Sequence[Any]) -> TrackRow:
    """A row of _TRACKS. SQLite returns JSON and times as text and booleans as numbers, PostgreSQL as Python objects."""
    values = dict(zip(_COLUMNS, row, strict=True))
    values["path"] = path_from_text(values["path"])
    for name in ("fields", "genres", "chosen_genres", "excluded_genres"):
        if isinstance(values[name], str):
            values[name] = json.loads(values[name])
    values["genres"] = tuple(values["genres"])
    for name in ("padded", "locked"):
        values[name] = None if values[name] is None else bool(values[name])
    if isinstance(values["analysed_at"], str):
        values["analysed_at"] = datetime.fromisoformat(values["analysed_at"])
    return TrackRow(**values)

"""Writing a library: the one place that records files, analyses and the user's choices."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

import numpy as np
from sqlalchemy import TextClause, select, text, update
from sqlalchemy.orm import Session

from musictagger.audio.frames import Status
from musictagger.audio.walk import FoundFile
from musictagger.errors import StoreError
from musictagger.library.database import open_database
from musictagger.library.reader import CHUNK, PARTITION, LibraryReader, Rows, below
from musictagger.library.schema import Analysis, Audio, Base, Choice, File, ModelRow
from musictagger.models.card import Card
from musictagger.records import Analysed, FloatArray
from musictagger.sqlite.connection import now
from musictagger.tags.fields import FileTags

Table = TypeVar("Table", bound=Base)
Need = Literal["nothing", "analysis", "inspection"]
Why = Literal[
    "new",
    "changed",
    "failed before",
    "not inspected",
    "forced",
    "unchanged",
    "not analysed by this model",
    "sliced differently before",
]


@dataclass(frozen=True)
class Todo:
    """The next step for a file, and the reason. `has_genre`: its genre field was not empty when last read."""

    file: FoundFile
    need: Need
    why: Why
    file_id: int | None = None
    digest: str | None = None
    has_genre: bool = False


class Store(LibraryReader):
    """An open library. Writes are collected in one transaction until `commit`; leaving the `with` block commits."""

    def __init__(self, location: str, *, create: bool = False) -> None:
        """Open the database at a path or SQLAlchemy URL. Raises StoreError (see library.database)."""
        self._engine = open_database(location, create=create)
        self._session = Session(self._engine)
        super().__init__(location, self._execute_sql)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # After an error elsewhere, what was recorded is still valid; after an error of the database it is not.
            if kind is None or not issubclass(kind, StoreError):
                self.commit()
        finally:
            self._session.close()
            self._engine.dispose()

    def _execute_sql(self, statement: str, values: Mapping[str, Any]) -> Rows:
        self._session.flush()
        return self._session.execute(text(statement), values, execution_options={"yield_per": PARTITION})

    def commit(self) -> None:
        """Make everything recorded so far durable."""
        with self._errors():
            self._session.commit()

    def model_id(self, card: Card) -> int:
        """The id of a model, which is recorded with its newest card."""
        with self._errors():
            row = self._existing_or_new(ModelRow, key=card.key)
            row.name, row.card, row.used_at = card.name, card.to_json(), now()
            self._session.flush()
            model_id = row.id
            # Committed at once: a walk over a slow disk may follow, during which nobody else could write.
            self._session.commit()
            return model_id

    def todo(
        self, files: Iterable[FoundFile], model_id: int, rule: str, *, force: bool = False, retry_failed: bool = False
    ) -> Iterator[Todo]:
        """The next step for each file, in the order given. Runs one statement per chunk of files."""
        remaining = iter(files)
        while chunk := list(islice(remaining, CHUNK)):
            yield from self._todo_chunk(chunk, model_id, rule, force, retry_failed)

    def _todo_chunk(
        self, files: Sequence[FoundFile], model_id: int, rule: str, force: bool, retry_failed: bool
    ) -> list[Todo]:
        statement = (
            select(File, Audio.digest, Analysis.rule)
            .outerjoin(Audio, File.audio_id == Audio.id)
            .outerjoin(Analysis, (Analysis.audio_id == Audio.id) & (Analysis.model_id == model_id))
            .where(File.path.in_([file.path for file in files]))
        )
        with self._errors():
            known = {row.path: (row, digest, made_by) for row, digest, made_by in self._session.execute(statement)}
            back = [row.id for row, _, _ in known.values() if row.missing]
            if back:
                self._session.execute(update(File).where(File.id.in_(back)).values(missing=False))
                self._session.commit()
        return [_next_step(file, known.get(file.path), rule, force, retry_failed) for file in files]

    def record_file(self, file: FoundFile, digest: str, tags: FileTags) -> None:
        """Record a file's identity and tags."""
        with self._errors():
            row = self._file(file)
            row.audio_id = self._audio(digest).id
            row.failure, row.transient = None, False
            _set_tags(row, tags)

    def record_failure(self, file: FoundFile, reason: str, *, transient: bool) -> None:
        """Record that a file cannot be read or decoded, and why.

        After a transient failure (drive disconnected, no permission) the analysis stays, and the next scan tries again.
        After any other failure, the content of the file differs from the one analysed.
        """
        with self._errors():
            row = self._file(file)
            row.failure, row.transient = reason, transient
            if not transient:
                row.audio_id = None

    def record_written(self, file: FoundFile, tags: FileTags) -> None:
        """Record tags, size and time of a file after our own write, so that it does not count as changed."""
        with self._errors():
            _set_tags(self._file(file), tags)

    def known_status(self, digest: str, model_id: int, rule: str) -> Status | None:
        """Status of a model's analysis of an audio with this slicing: ok, too short or silent; None without one."""
        statement = (
            select(Analysis.status)
            .join(Audio)
            .where(Audio.digest == digest, Analysis.model_id == model_id, Analysis.rule == rule)
        )
        with self._errors():
            return cast(Status | None, self._session.scalar(statement))

    def is_locked(self, digest: str) -> bool:
        """Return whether the user locked the files with this audio against writing."""
        statement = select(Choice.locked).join(Audio).where(Audio.digest == digest)
        with self._errors():
            return bool(self._session.scalar(statement))

    def digests_under(self, roots: Sequence[Path]) -> set[str]:
        """Audio digests of the known files in some folders, or at these paths."""
        statement = select(Audio.digest).join(File, File.audio_id == Audio.id).where(_under(roots))
        with self._errors():
            return set(self._session.scalars(statement))

    def record_analysis(self, model_id: int, rule: str, analysed: Analysed) -> None:
        """Record a model's analysis of an audio; it replaces an earlier one."""
        with self._errors():
            audio = self._audio(analysed.digest)
            audio.duration_s = analysed.duration_s
            row = self._existing_or_new(Analysis, audio_id=audio.id, model_id=model_id)
            row.rule, row.status, row.padded = rule, analysed.status, analysed.padded
            row.frames = len(analysed.scores)
            row.scores = _half(analysed.scores)
            row.embedding = _half(analysed.embedding)

    def mark_missing(self, roots: Sequence[Path], seen: Collection[int | None], unread: Sequence[Path]) -> int:
        """Mark files under `roots` that are not in `seen` as missing, except in `unread` folders; returns their number.

        They keep their rows, so that a drive can be reconnected without a new analysis.
        """
        outside = tuple(f"{path}/" for path in unread)
        statement = select(File.id, File.path).where(File.missing.is_(False), _under(roots))
        with self._errors():
            gone = [
                id_
                for id_, path in self._session.execute(statement)
                # Files that only --all-files finds are not in `seen`, but exist.
                if id_ not in seen and not f"{path}/".startswith(outside) and not os.path.lexists(path)
            ]
            for start in range(0, len(gone), CHUNK):
                ids = gone[start : start + CHUNK]
                self._session.execute(update(File).where(File.id.in_(ids)).values(missing=True))
        return len(gone)

    def choose(self, digest: str, genres: Sequence[str] | None, excluded: Sequence[str], locked: bool) -> None:
        """Record the user's decision for an audio; it replaces an earlier one, and an empty one removes it."""
        with self._errors():
            audio_id = self._audio(digest).id
            row = self._session.get(Choice, audio_id) or Choice(audio_id=audio_id)
            if genres is None and not excluded and not locked:
                if row in self._session:
                    self._session.delete(row)
                return
            row.genres, row.excluded, row.locked = None if genres is None else list(genres), list(excluded), locked
            self._session.add(row)

    def paths_of(self, digest: str) -> list[Path]:
        """The files that contain an audio, sorted."""
        statement = select(File.path).join(Audio).where(Audio.digest == digest, File.missing.is_(False))
        with self._errors():
            return list(self._session.scalars(statement.order_by(File.path)))

    def _file(self, file: FoundFile) -> File:
        row = self._existing_or_new(File, path=file.path)
        row.size, row.mtime_ns, row.missing = file.size, file.mtime_ns, False
        return row

    def _audio(self, digest: str) -> Audio:
        row = self._existing_or_new(Audio, digest=digest)
        self._session.flush()
        return row

    def _existing_or_new(self, table: type[Table], **key: Any) -> Table:
        row = self._session.scalar(select(table).filter_by(**key))
        if row is None:
            row = table(**key)
            self._session.add(row)
        return row


def _half(values: FloatArray) -> bytes:
    """Values as little-endian float16; those out of range become the largest number instead of infinity."""
    largest = float(np.finfo(np.float16).max)
    return np.clip(values, -largest, largest).astype("<f2").tobytes()


def _set_tags(row: File, tags: FileTags) -> None:
    row.container, row.tag_system = tags.container, tags.system
    row.artist, row.title, row.album = tags.artist, tags.title, tags.album
    row.genres = list(tags.genres)
    row.fields = {field: list(values) for field, values in tags.fields.items()}


def _next_step(
    file: FoundFile, known: tuple[File, str | None, str | None] | None, rule: str, force: bool, retry_failed: bool
) -> Todo:
    if known is None:
        return Todo(file, "inspection", "new")
    row, digest, made_by = known

    def todo(need: Need, why: Why) -> Todo:
        return Todo(file, need, why, row.id, digest, any(row.fields.get("genre", ())))

    if (row.size, row.mtime_ns) != (file.size, file.mtime_ns):
        return todo("inspection", "changed")
    if row.failure is not None:
        again = row.transient or retry_failed
        return todo("inspection", "failed before") if again else todo("nothing", "failed before")
    if digest is None:
        return todo("inspection", "not inspected")
    if force:
        return todo("analysis", "forced")
    if made_by is None:
        return todo("analysis", "not analysed by this model")
    if made_by != rule:
        return todo("analysis", "sliced differently before")
    return todo("nothing", "unchanged")


def _under(roots: Sequence[Path]) -> TextClause:
    """Files at or below one of these paths."""
    condition, values = below(roots)
    return text(condition).bindparams(**values)

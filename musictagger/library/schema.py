"""The tables. A file refers to its audio, identified by a digest that tags do not change; analyses belong to the audio.

Therefore retagging, renaming or moving a file needs no new analysis, copies share one, and the analyses of several
models coexist. A change to these classes needs a migration in migrations/versions.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Double, ForeignKey, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from musictagger.sqlite.connection import now
from musictagger.sqlite.engine import PathText


class Base(DeclarativeBase):
    """Base of the tables."""


class Audio(Base):
    """One audio content, in one or more files."""

    __tablename__ = "audio"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    duration_s: Mapped[float | None] = mapped_column(Double)


class File(Base):
    """One path. `size` and `mtime_ns` show whether it changed since it was inspected."""

    __tablename__ = "file"

    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[Path] = mapped_column(PathText, unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    audio_id: Mapped[int | None] = mapped_column(ForeignKey("audio.id"), index=True)
    container: Mapped[str] = mapped_column(String(16), default="unknown")
    """The container, a key of tags.containers.table.CONTAINERS."""
    tag_system: Mapped[str | None] = mapped_column(String(16))
    """The kind of tags it has or would get: see tags.containers.systems.System."""
    artist: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str | None] = mapped_column(Text)
    album: Mapped[str | None] = mapped_column(Text)
    genres: Mapped[list[str]] = mapped_column(JSON, default=list)
    """The genres in the file's genre field."""
    fields: Mapped[dict[str, list[str]]] = mapped_column(JSON, default=dict)
    """The raw values of each field that musictagger can write (`(17)` for Rock), which a write has to preserve."""
    failure: Mapped[str | None] = mapped_column(Text)
    """Why the file could not be read or decoded; None where it could."""
    transient: Mapped[bool] = mapped_column("passing", default=False)
    """Whether the failure may be over by the next scan: no permission, drive disconnected."""
    missing: Mapped[bool] = mapped_column(default=False)
    """Whether it did not exist when its folder was last scanned."""
    inspected_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now, onupdate=now)


class Choice(Base):
    """The user's decision for an audio (`musictagger fix`), which scans and models do not change."""

    __tablename__ = "choice"

    audio_id: Mapped[int] = mapped_column(ForeignKey("audio.id"), primary_key=True, autoincrement=False)
    genres: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """Written instead of the predicted genres; None where the model decides."""
    excluded: Mapped[list[str]] = mapped_column(JSON, default=list)
    """Predicted genres that are never written."""
    locked: Mapped[bool] = mapped_column(default=False)
    """Whether nothing is written into the files."""
    chosen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now, onupdate=now)


class ModelRow(Base):
    """A model used for a scan. `key` changes when its scores would (see Card.key)."""

    __tablename__ = "model"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(Text)
    card: Mapped[dict[str, Any]] = mapped_column(JSON)
    used_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)


class Analysis(Base):
    """A model's scores for an audio, frame by frame."""

    __tablename__ = "analysis"
    __table_args__ = (UniqueConstraint("audio_id", "model_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    audio_id: Mapped[int] = mapped_column(ForeignKey("audio.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), index=True)
    rule: Mapped[str] = mapped_column(Text)
    """How the audio was sliced into frames; an analysis with another slicing is outdated."""
    status: Mapped[str] = mapped_column(String(16))
    """ok, too short or silent."""
    padded: Mapped[bool]
    frames: Mapped[int]
    scores: Mapped[bytes] = mapped_column(LargeBinary)
    """float16 little-endian [frames, outputs]."""
    embedding: Mapped[bytes] = mapped_column(LargeBinary)
    """float16 little-endian [dim], the mean over frames."""
    analysed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now, onupdate=now)

"""The tables. A file points at its audio, known by a digest that tags do not change; analyses belong to the audio.

So retagging, renaming or moving a file is no new analysis, two copies share one, and several models' analyses live
side by side. A change to these classes needs a migration in migrations/versions.
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
    """Root of the tables."""


class Audio(Base):
    """One piece of sound, whatever files hold it."""

    __tablename__ = "audio"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    duration_s: Mapped[float | None] = mapped_column(Double)


class File(Base):
    """One path. `size` and `mtime_ns` tell whether it changed since it was inspected."""

    __tablename__ = "file"

    id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[Path] = mapped_column(PathText, unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    audio_id: Mapped[int | None] = mapped_column(ForeignKey("audio.id"), index=True)
    container: Mapped[str] = mapped_column(String(16), default="unknown")
    """What kind of file it is, a key of tags.containers.CONTAINERS."""
    tag_system: Mapped[str | None] = mapped_column(String(16))
    """Which tags it has, or would get: see tags.containers.System."""
    artist: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str | None] = mapped_column(Text)
    album: Mapped[str | None] = mapped_column(Text)
    genres: Mapped[list[str]] = mapped_column(JSON, default=list)
    """The genres that the file's genre field names."""
    fields: Mapped[dict[str, list[str]]] = mapped_column(JSON, default=dict)
    """The raw values of each field that we may write, `(17)` for Rock: what a write has to preserve."""
    failure: Mapped[str | None] = mapped_column(Text)
    """Why the file could not be read or decoded; None where it could."""
    transient: Mapped[bool] = mapped_column("passing", default=False)
    """Whether that may be over by the next scan: no permission, a drive that went away."""
    missing: Mapped[bool] = mapped_column(default=False)
    """Not there any more when its folder was last scanned."""
    inspected_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now, onupdate=now)


class Choice(Base):
    """What the user decided for a piece of sound (`musictagger fix`); no scan and no model touches it."""

    __tablename__ = "choice"

    audio_id: Mapped[int] = mapped_column(ForeignKey("audio.id"), primary_key=True, autoincrement=False)
    genres: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    """Written whatever a model says; None where the model decides."""
    excluded: Mapped[list[str]] = mapped_column(JSON, default=list)
    """Never written, whatever a model says."""
    locked: Mapped[bool] = mapped_column(default=False)
    """Nothing is written at all."""
    chosen_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now, onupdate=now)


class ModelRow(Base):
    """One model that analysed something. `key` changes when its scores would (see Card.key)."""

    __tablename__ = "model"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(Text)
    card: Mapped[dict[str, Any]] = mapped_column(JSON)
    used_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)


class Analysis(Base):
    """What one model said of one piece of sound, frame by frame."""

    __tablename__ = "analysis"
    __table_args__ = (UniqueConstraint("audio_id", "model_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    audio_id: Mapped[int] = mapped_column(ForeignKey("audio.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), index=True)
    rule: Mapped[str] = mapped_column(Text)
    """The slicing it was made with; another one makes it stale."""
    status: Mapped[str] = mapped_column(String(16))
    """ok, too short, silent."""
    padded: Mapped[bool]
    frames: Mapped[int]
    scores: Mapped[bytes] = mapped_column(LargeBinary)
    """float16 little-endian [frames, outputs]."""
    embedding: Mapped[bytes] = mapped_column(LargeBinary)
    """float16 little-endian [dim], the mean over frames."""
    analysed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now, onupdate=now)

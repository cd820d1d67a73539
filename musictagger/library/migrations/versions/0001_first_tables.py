"""The first tables: audio, file, choice, model, analysis."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "audio",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("duration_s", sa.Double),
    )
    op.create_table(
        "file",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("path", sa.Text, nullable=False, unique=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("audio_id", sa.Integer, sa.ForeignKey("audio.id"), index=True),
        sa.Column("container", sa.String(16), nullable=False),
        sa.Column("tag_system", sa.String(16)),
        sa.Column("artist", sa.Text),
        sa.Column("title", sa.Text),
        sa.Column("album", sa.Text),
        sa.Column("genres", sa.JSON, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.Column("failure", sa.Text),
        sa.Column("passing", sa.Boolean, nullable=False),
        sa.Column("missing", sa.Boolean, nullable=False),
        sa.Column("inspected_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "choice",
        sa.Column("audio_id", sa.Integer, sa.ForeignKey("audio.id"), primary_key=True),
        sa.Column("genres", sa.JSON),
        sa.Column("excluded", sa.JSON, nullable=False),
        sa.Column("locked", sa.Boolean, nullable=False),
        sa.Column("chosen_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "model",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("card", sa.JSON, nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "analysis",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("audio_id", sa.Integer, sa.ForeignKey("audio.id"), nullable=False),
        sa.Column("model_id", sa.Integer, sa.ForeignKey("model.id"), nullable=False, index=True),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("padded", sa.Boolean, nullable=False),
        sa.Column("frames", sa.Integer, nullable=False),
        sa.Column("scores", sa.LargeBinary, nullable=False),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
        sa.Column("analysed_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("audio_id", "model_id"),
    )


def downgrade() -> None:
    """Drop everything."""
    for table in ("analysis", "model", "choice", "file", "audio"):
        op.drop_table(table)

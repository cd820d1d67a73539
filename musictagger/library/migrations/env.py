"""Alembic's entry: runs the migrations on the connection that `library.database` hands over."""

from __future__ import annotations

from alembic import context

from musictagger.library.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter most things in place: tables are copied instead.
    render_as_batch=True,
    # True since library.database begins transactions itself; alembic assumes Python's sqlite3 defaults.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()

"""`musictagger fix`: the user's own decisions about a track, which no scan and no model changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musictagger.cli.changes import apply_plan
from musictagger.cli.options import ANY_PATH, chosen_view, opened_writer, pass_settings, safety_options, view_options
from musictagger.errors import BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.library.reader import TrackRow
    from musictagger.library.store import Store


@click.command("fix")
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH)
@click.option(
    "--genre", multiple=True, metavar="NAME", help="The track's genre, whatever the model predicts; repeatable."
)
@click.option("--not", "excluded", multiple=True, metavar="NAME", help="Never this genre; repeatable.")
@click.option("--lock/--unlock", default=None, help="Never write into this file, or allow it again.")
@click.option("--forget", is_flag=True, help="Forget these decisions; the model decides again.")
@safety_options
@view_options
@pass_settings
def command(
    paths: tuple[Path, ...],
    genre: tuple[str, ...],
    excluded: tuple[str, ...],
    lock: bool | None,
    forget: bool,
    settings: Settings,
) -> int:
    """Set or exclude genres of PATHS, or lock them.

    Decisions belong to the audio, so they survive renaming, rescans and new models.

    \b
      musictagger fix song.mp3 --genre Jazz        set the genre; written at once
      musictagger fix song.mp3 --not Pop           never choose this genre
      musictagger fix song.mp3 --lock              never write into this file
    """
    if not (genre or excluded or forget or lock is not None):
        raise BadRequestError("choose what to fix: --genre, --not, --lock, --unlock or --forget")
    for name in (*genre, *excluded):
        if not name.strip() or not name.isprintable():
            raise BadRequestError(f"{name!r} is not a genre: its name must have visible characters only")
    from musictagger.audio.walk import absolute
    from musictagger.library.store import Store
    from musictagger.library.view import track_views
    from musictagger.pipeline.writing import plan_tracks
    from musictagger.tags.plan import Plan

    wanted = [absolute(path) for path in paths]
    with Store(settings.db_location) as store:
        model_id, view = chosen_view(store, settings)
        for row in _rows(store, model_id, wanted):
            _decide(store, row, genre, excluded, lock, forget)
        store.commit()
        rows = _rows(store, model_id, wanted) if genre else []
        plan = Plan(tuple(plan_tracks(track_views(rows, view), settings)))
    if not genre:
        click.echo(f"{len(wanted)} remembered; `musictagger plan` shows what would be written")
        return 0
    with opened_writer(settings) as writer:
        return apply_plan(plan, "fix " + " ".join(map(printable, paths)), False, writer)


def _rows(store: Store, model_id: int, paths: list[Path]) -> list[TrackRow]:
    rows = {row.path: row for chunk in store.tracks(model_id, paths) for row in chunk}
    for path in paths:
        if path not in rows or rows[path].digest is None:
            raise BadRequestError(f"{printable(path)}: is not in the library; run `musictagger scan` on it first")
    return [rows[path] for path in paths]


def _decide(
    store: Store, row: TrackRow, genre: tuple[str, ...], excluded: tuple[str, ...], lock: bool | None, forget: bool
) -> None:
    """Add to the earlier decisions or, with `forget`, replace them."""
    assert row.digest is not None
    genres = None if forget else row.chosen_genres
    never = [] if forget else list(row.excluded_genres or [])
    locked = bool(row.locked) and not forget
    never += [name for name in excluded if name not in never]
    store.choose(row.digest, list(genre) or genres, never, locked if lock is None else lock)

"""`musictagger fix`: the user's own word on a track, which no scan and no model touches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musictagger.cli.changes import apply_plan
from musictagger.cli.options import ExistingPath, chosen_view, pass_settings, safety_options, view_options
from musictagger.errors import BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.library.reader import TrackRow
    from musictagger.library.store import Store


@click.command("fix")
@click.argument("paths", nargs=-1, required=True, type=ExistingPath)
@click.option("--genre", multiple=True, metavar="NAME", help="The track's genre, whatever a model says; repeatable.")
@click.option("--not", "excluded", multiple=True, metavar="NAME", help="Never this genre; repeatable.")
@click.option("--lock/--unlock", default=None, help="Write nothing into this file any more, or do so again.")
@click.option("--forget", is_flag=True, help="Forget what was fixed; the model decides again.")
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
    """Decide for PATHS yourself. It is remembered with the sound, so it outlasts renaming, rescans and new models.

    \b
      musictagger fix song.mp3 --genre Jazz        this is what it is; written at once
      musictagger fix song.mp3 --not Pop           anything but this
      musictagger fix song.mp3 --lock              leave this file alone
    """
    if not (genre or excluded or forget or lock is not None):
        raise BadRequestError("say what to fix: --genre, --not, --lock, --unlock or --forget")
    for name in (*genre, *excluded):
        if not name.strip() or not name.isprintable():
            raise BadRequestError(f"{name!r} is no genre: a name of visible characters is")
    from musictagger.audio.walk import absolute
    from musictagger.library.store import Store
    from musictagger.library.view import look
    from musictagger.pipeline.writing import plan_track
    from musictagger.tags.plan import Plan

    wanted = [absolute(path) for path in paths]
    with Store(settings.db_location) as store:
        model_id, view = chosen_view(store, settings)
        for row in _rows(store, model_id, wanted):
            _decide(store, row, genre, excluded, lock, forget)
        store.commit()
        rows = _rows(store, model_id, wanted) if genre else []
        changes = [plan_track(track, settings) for track in look(rows, view)]
    if not genre:
        click.echo(f"{len(wanted)} remembered; `musictagger plan` shows what follows from it")
        return 0
    plan = Plan(tuple(change for change in changes if change is not None))
    return apply_plan(plan, "fix " + " ".join(map(printable, paths)), False, settings)


def _rows(store: Store, model_id: int, paths: list[Path]) -> list[TrackRow]:
    rows = {row.path: row for chunk in store.tracks(model_id, paths) for row in chunk}
    for path in paths:
        if path not in rows or rows[path].digest is None:
            raise BadRequestError(f"{printable(path)}: is not in the library; run `musictagger scan` on it first")
    return [rows[path] for path in paths]


def _decide(
    store: Store, row: TrackRow, genre: tuple[str, ...], excluded: tuple[str, ...], lock: bool | None, forget: bool
) -> None:
    """Add to what was decided before; `forget` starts anew."""
    assert row.digest is not None
    genres = None if forget else row.chosen_genres
    never = [] if forget else list(row.excluded_genres or [])
    locked = bool(row.locked) and not forget
    never += [name for name in excluded if name not in never]
    store.choose(row.digest, list(genre) or genres, never, locked if lock is None else lock)

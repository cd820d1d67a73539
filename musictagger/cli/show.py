"""`musictagger show`: all that is known about one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.options import ANY_PATH, json_output, opened_view, pass_settings, view_options
from musictagger.errors import BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings


@click.command("show")
@click.argument("file", type=ANY_PATH)
@json_output
@view_options
@pass_settings
def command(file: Path, as_json: bool, settings: Settings) -> int:
    """Show the scores of FILE as bars, with its model and status.

    Bold tags reach their threshold; a * marks the genres that a scan writes.
    """
    from musictagger.audio.walk import absolute
    from musictagger.library.view import track_views

    with opened_view(settings) as (store, model_id, view):
        tracks = [track for rows in store.tracks(model_id, [absolute(file)]) for track in track_views(rows, view)]
        location = store.location
    if not tracks:
        raise BadRequestError(f"{printable(file)}: is not in {location}; run `musictagger scan` on it first")
    if as_json:
        documents.print_json(documents.track_document(tracks[0]))
        return 0
    # Imported here, because the JSON document does not need rich.
    from musictagger.cli import render

    console = render.console()
    for name, value in render.facts(tracks[0]):
        if value:
            console.print(f"{name:<16} {value}", markup=False, soft_wrap=True)
    if tracks[0].tags:
        console.print()
        console.print(render.score_table(tracks[0]))
    return 0

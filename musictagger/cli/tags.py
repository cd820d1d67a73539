"""`musictagger tags`: the vocabulary, and the number of tracks with each tag."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.options import json_output, opened_view, pass_settings, view_options

if TYPE_CHECKING:
    from musictagger.config import Settings


@click.command("tags")
@json_output
@view_options
@pass_settings
def command(as_json: bool, settings: Settings) -> int:
    """List the tags of the model, with thresholds and track counts."""
    import numpy as np
    from rich.markup import escape

    from musictagger.cli import render
    from musictagger.library.view import queryable, track_views

    with opened_view(settings) as (store, model_id, view):
        limits = view.thresholds
        counts = np.zeros(len(limits), np.int64)
        for rows in store.tracks(model_id):
            counts += (queryable(track_views(rows, view), view).scores >= limits).sum(axis=0)
    tags = sorted(zip(view.card.tags, limits, counts, strict=True), key=lambda row: (row[0].category, row[0].name))
    if as_json:
        listed = [
            {"name": tag.name, "category": tag.category, "threshold": round(float(limit), 4), "tracks": int(count)}
            for tag, limit, count in tags
        ]
        documents.print_json({"schema": documents.TAGS, "model": view.card.name, "tags": listed})
        return 0
    table = render.table("Category", "Tag", "From score", "Tracks", right=("From score", "Tracks"))
    for tag, limit, count in tags:
        table.add_row(tag.category, escape(tag.name), f"{limit:.2f}", str(count), style="" if count else "dim")
    render.console().print(table)
    return 0

"""`musictagger query`: find tracks by tag."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.options import at_least, json_output, opened_view, pass_settings, view_options

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.library.view import TrackView, View


@click.command("query")
@click.argument("query", nargs=-1)
@click.option("--limit", type=int, callback=at_least(0), metavar="N", help="Show at most N tracks.")
@click.option("--paths", "as_paths", is_flag=True, help="Print only the paths, one per line.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with a column for every tag's score.")
@json_output
@view_options
@pass_settings
def command(
    query: tuple[str, ...], limit: int | None, as_paths: bool, as_csv: bool, as_json: bool, settings: Settings
) -> int:
    """Find tracks in the library; without a QUERY, all of them.

    \b
      genre:rock mood:mellow      both (a space means and)
      genre:jazz , genre:blues    either (a comma means or; also genre:jazz,blues)
      -tag:vocals                 not
      score.jazz:0.3..            Jazz scores 0.3 or more (also ..0.8, 0.3..0.8)
      tag: genre: mood: instrument: voice: era: other:   has this tag
      artist: title: album: path: filegenre:   contains this (=word: equals it)
      duration:3:00..5:00         length in minutes or seconds
      sort:score.jazz-            in this order, from high to low with the -
      sort:duration sort:artist sort:title sort:album sort:path   likewise

    Put the query in quotation marks, and -- before one that begins with -.
    """
    from musictagger.library.query import parse
    from musictagger.library.view import search

    with opened_view(settings) as (store, model_id, view):
        parsed = parse(" ".join(query), view.card)
        found = search(store, model_id, view, parsed)
        several = store.count_models() > 1
    tracks = found if limit is None else found[:limit]
    if as_json:
        documents.print_json({"schema": documents.QUERY, "tracks": [*map(documents.track_document, tracks)]})
    elif as_paths:
        _print_bytes("".join(f"{track.row.path}\n" for track in tracks))
    elif as_csv:
        _print_bytes(_csv(tracks, view))
    else:
        # Imported here, because importing rich takes a fifth of the time of a query.
        from musictagger.cli import render

        console = render.console()
        if tracks:
            console.print(render.track_table(tracks, console.width))
        more = f", {len(tracks)} shown" if len(tracks) < len(found) else ""
        model = f", with the scores of {view.card.name}" if several else ""
        console.print(f"{len(found)} found{more}{model}", style="dim")
    return 0


def _print_bytes(text: str) -> None:
    """Print text; undecodable bytes of file names are printed unchanged."""
    click.echo(text.encode("utf-8", "surrogateescape"), nl=False)


def _csv(tracks: Sequence[TrackView], view: View) -> str:
    names = [tag.name for tag in view.card.tags]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "artist", "title", "album", "duration_s", "status", "genres", *names])
    for track in tracks:
        row = track.row
        scores = [""] * len(names) if track.scores is None else [f"{score:.4f}" for score in track.scores]
        length = "" if row.duration_s is None else f"{row.duration_s:.3f}"
        texts = [row.path, row.artist, row.title, row.album, length, track.status, "; ".join(track.genres)]
        writer.writerow([*texts, *scores])
    return out.getvalue()

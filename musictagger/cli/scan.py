"""`musictagger scan`: analyse music, store the scores, write genres into the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.options import (
    ANY_PATH,
    json_output,
    library_options,
    model_options,
    opened_writer,
    pass_settings,
    quiet_option,
    safety_options,
    scan_options,
    score_options,
    stoppable,
    write_options,
)
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.library.store import Store
    from musictagger.library.view import TrackView
    from musictagger.models.card import Card
    from musictagger.pipeline.scan import ScanReport

MAX_ROWS = 40
"""Up to this many tracks are listed; of more, only the summary is printed."""


@click.command("scan")
@click.argument("paths", nargs=-1, required=True, type=ANY_PATH)
@click.option("--dry-run", is_flag=True, help="Show what would be written; write into no music file.")
@click.option("--force", is_flag=True, help="Analyse all tracks again, not only new and changed ones.")
@click.option("--retry-failed", is_flag=True, help="Retry files that failed before and have not changed.")
@click.option("--all-files", is_flag=True, help="Also look into files whose extension is not that of music.")
@scan_options
@write_options
@safety_options
@model_options
@score_options
@json_output
@quiet_option
@library_options
@pass_settings
def command(paths: tuple[Path, ...], as_json: bool, quiet: bool, settings: Settings, **flags: bool) -> int:
    """Tag the music in PATHS (files or folders).

    Each track is cut into frames of 29.12 s, a trained model scores them, and the scores are stored in the library.
    By default, genres are written into files that have none. Tracks that were analysed before are not analysed again,
    even if the file was renamed, moved or retagged. You can stop at any time with Ctrl-C; the next scan continues
    from there.
    """
    from musictagger.cli import progress
    from musictagger.models.inference import load_predictor
    from musictagger.pipeline.scan import Scan, ScanOptions

    options = ScanOptions(**flags)
    with progress.reporter(quiet) as reporter, stoppable(reporter):
        _require_paths(paths)
        with opened_writer(settings, new=True) as writer:
            predictor = load_predictor(settings, reporter)
            reporter.say(f"{predictor.card.name} on {predictor.device}, library {writer.store.location}")
            report = Scan(writer, predictor, settings, options, reporter).run(paths)
            reporter.close()
            tracks = _in_scope(writer.store, predictor.card, settings, paths)
            if as_json:
                documents.print_json(documents.scan_document(report, tracks))
            elif not quiet:
                _print(report, tracks, settings, options.dry_run)
    if report.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if report.failures or report.unwritten else 0


def _require_paths(paths: tuple[Path, ...]) -> None:
    """Raise BadRequestError for a missing path, before a model is fetched or loaded."""
    for path in paths:
        if not path.exists():
            raise BadRequestError(f"{printable(path)}: no such file or folder")


def _in_scope(store: Store, card: Card, settings: Settings, paths: tuple[Path, ...]) -> Iterator[TrackView]:
    """Yield the library's tracks under the scanned paths."""
    from musictagger.audio.walk import absolute
    from musictagger.library.view import track_views, view_of

    view = view_of(card, settings)
    for rows in store.tracks(store.model_id(card), under=[absolute(path) for path in paths]):
        yield from track_views(rows, view)


def _print(report: ScanReport, tracks: Iterator[TrackView], settings: Settings, dry_run: bool) -> None:
    from musictagger.cli import render

    console = render.console()
    if report.tagged + report.unchanged + report.skipped.total() <= MAX_ROWS:
        written = {change.path for change in report.written}
        console.print(render.track_table(list(tracks), console.width, written))
        console.print("+ written by this scan\n" if written else "", style="dim")
    for change in report.planned:
        console.print(render.change_text(change), soft_wrap=True)
    for line in _summary(report, settings, dry_run):
        console.print(line, markup=False, soft_wrap=True)


def _summary(report: ScanReport, settings: Settings, dry_run: bool) -> list[str]:
    from musictagger.tags.containers.table import CONTAINERS

    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(report.skipped.items()))
    counts = [
        f"{report.tagged} tagged",
        f"{report.unchanged} unchanged",
        f"{len(report.planned)} would be written" if dry_run else f"{len(report.written)} written",
        f"{report.skipped.total()} skipped" + (f" ({reasons})" if reasons else ""),
        f"{len(report.failures)} failed",
        *([f"{len(report.unwritten)} could not be written"] if report.unwritten else []),
        *([f"{report.missing} gone from disk"] if report.missing else []),
    ]
    lines = [", ".join(counts) + (" - interrupted" if report.interrupted else "")]
    for container, count in sorted(report.untaggable.items()):
        lines.append(f"{count} left alone: {CONTAINERS[container].refusal}")
    if report.audio_s:
        hours, speed = report.audio_s / 3600, report.realtime_factor
        lines.append(f"{hours:.2f} h of audio in {report.seconds:.1f} s: {speed:.0f} x real time")
    lines.append(f"Stored in {settings.db_location}")
    if report.failures:
        lines.append("`musictagger failed` lists the files that failed; `--retry-failed` retries them")
    return lines

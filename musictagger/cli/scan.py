"""`musictagger scan`: listen to a folder, store what was heard, write genres into the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.options import (
    ExistingPath,
    json_output,
    library_options,
    model_options,
    opened_journal,
    safety_options,
    score_options,
    stoppable,
    write_options,
)
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.library.store import Store
    from musictagger.library.view import TrackView
    from musictagger.models.card import Card
    from musictagger.pipeline.scan import Report

MOST_ROWS = 40
"""Tracks shown one by one; of more than these, only the summary."""


@click.command("scan")
@click.argument("paths", nargs=-1, required=True, type=ExistingPath)
@click.option("--dry-run", is_flag=True, help="Show what would be written; touch no music file.")
@click.option("--force", is_flag=True, help="Analyse again what was analysed before.")
@click.option("--retry-failed", is_flag=True, help="Try files again that failed before and have not changed.")
@click.option("--all-files", is_flag=True, help="Look into files whose extension is not that of music.")
@click.option("--frames", type=int, metavar="N", help="At most N frames a track, evenly spaced; default: all.")
@click.option("--trim-edges", type=float, metavar="SECONDS", help="Leave out both ends of a track; default: 5.")
@click.option("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1 or mps.")
@click.option("--batch-size", type=int, metavar="N", help="Frames per batch; default: by device.")
@click.option("--workers", type=int, metavar="N", help="Processes that decode; default: by cores and device.")
@click.option("--decode-timeout", type=float, metavar="SECONDS", help="Give a file up without progress; default: 120.")
@write_options
@safety_options
@model_options
@score_options
@json_output
@click.option("--quiet", is_flag=True, help="Print only what failed.")
@library_options
def command(
    paths: tuple[Path, ...],
    dry_run: bool,
    force: bool,
    retry_failed: bool,
    all_files: bool,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> int:
    """Tag the music in PATHS (files or folders).

    Each track is cut into frames of 29.12 s, a trained model scores them, and everything is stored in the library.
    By default, genres are written into files that have none. What was analysed before is not analysed again, even
    when a file was renamed, moved or retagged. Ctrl-C stops at any time; the next scan goes on from there.
    """
    from musictagger.cli import progress
    from musictagger.models.inference import load_predictor
    from musictagger.pipeline.scan import ScanOptions, scan

    options = ScanOptions(all_files=all_files, force=force, retry_failed=retry_failed, dry_run=dry_run)
    with progress.reporter(quiet) as reporter, stoppable(reporter):
        _require_paths(paths)
        with opened_journal(flags, new=True) as (store, journal, settings):
            predictor = load_predictor(settings, reporter)
            reporter.say(f"{predictor.card.name} on {predictor.device}, library {store.location}")
            report = scan(paths, store, journal, predictor, settings, options, reporter)
            reporter.close()
            _show(report, _in_scope(store, predictor.card, settings, paths), settings, options.dry_run, as_json, quiet)
    if report.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if report.failures or report.unwritten else 0


def _require_paths(paths: tuple[Path, ...]) -> None:
    """Before a model is loaded or fetched: a typing error should not cost a minute."""
    from musictagger.errors import BadRequestError

    for path in paths:
        if not path.exists():
            raise BadRequestError(f"{printable(path)}: no such file or folder")


def _in_scope(store: Store, card: Card, settings: Settings, paths: tuple[Path, ...]) -> Iterator[TrackView]:
    """The library's tracks under the scanned paths, one by one."""
    from musictagger.audio.walk import absolute
    from musictagger.library.view import look, view_of

    view = view_of(card, settings)
    for rows in store.tracks(store.model_id(card), under=[absolute(path) for path in paths]):
        yield from look(rows, view)


def _show(
    report: Report, tracks: Iterator[TrackView], settings: Settings, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    from musictagger.cli import documents, render

    if as_json:
        documents.print_json(documents.scan_document(report, tracks))
        return
    if quiet:
        return
    console = render.console()
    if report.tagged + report.unchanged + report.skipped.total() <= MOST_ROWS:
        written = {change.path for change in report.written}
        console.print(render.track_table(list(tracks), console.width, written))
        console.print("+ written by this scan\n" if written else "", style="dim")
    for change in report.planned:
        console.print(render.change_text(change), soft_wrap=True)
    for line in _summary(report, settings, dry_run):
        console.print(line, markup=False, soft_wrap=True)


def _summary(report: Report, settings: Settings, dry_run: bool) -> list[str]:
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
        lines.append("`musictagger failed` lists what failed; `--retry-failed` tries it again")
    return lines

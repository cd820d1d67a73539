"""`musictagger undo`: restore the former values of fields."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musictagger.cli.changes import report_outcome
from musictagger.cli.options import (
    ANY_PATH,
    json_output,
    library_options,
    opened_writer,
    pass_settings,
    safety_options,
    stoppable,
)
from musictagger.errors import BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.pipeline.writing import TagWriter
    from musictagger.tags.journalfile import JournalEntry


@click.command("undo")
@click.argument("paths", nargs=-1, type=ANY_PATH)
@click.option("--run", type=int, metavar="ID", help="Undo this run (`musictagger history` lists them).")
@click.option("--last", is_flag=True, help="Undo the last run that wrote something and is not undone.")
@click.option("--dry-run", is_flag=True, help="Show what would be restored; write nothing.")
@json_output
@safety_options
@library_options
@pass_settings
def command(
    paths: tuple[Path, ...], run: int | None, last: bool, dry_run: bool, as_json: bool, settings: Settings
) -> int:
    """Restore the fields that a run wrote, or all runs on PATHS.

    PATHS are files or folders. Every field gets exactly its former value. A field that another program has changed
    since is left alone and reported. An undo is a run too, and can be undone.
    """
    from musictagger.cli import progress

    if sum([bool(paths), run is not None, last]) != 1:
        raise BadRequestError("choose what to undo: --last, --run ID, or files and folders")
    with opened_writer(settings) as writer:
        entries = _chosen(writer, paths, run, last)
        if not entries:
            where = " there" if paths else ""
            raise BadRequestError(f"there is nothing to undo{where}; `musictagger history` lists what was written")
        if dry_run:
            _print(entries)
            return 0
        note = " ".join(map(printable, paths)) or f"run {entries[0].run_id}"
        new_run = writer.journal.start_run("undo", note)
        with progress.reporter(quiet=False) as reporter, stoppable(reporter):
            outcome = writer.undo(entries, new_run, reporter)
    return report_outcome(new_run, outcome, as_json, "restored")


def _print(entries: list[JournalEntry]) -> None:
    for entry in entries:
        for name, values in entry.before.items():
            click.echo(f"{printable(entry.path)}: {name} back to {printable('; '.join(values)) or '(none)'}")


def _chosen(writer: TagWriter, paths: tuple[Path, ...], run: int | None, last: bool) -> list[JournalEntry]:
    journal = writer.journal
    runs = journal.runs()
    if last:
        written = [known.id for known in runs if known.kind != "undo" and known.counts.get("written")]
        return journal.entries(run_id=written[0]) if written else []
    if run is not None:
        if run not in {known.id for known in runs}:
            raise BadRequestError(f"there is no run {run}; `musictagger history` lists them")
        return journal.entries(run_id=run)
    from musictagger.audio.walk import absolute

    roots = [absolute(path) for path in paths]
    # A file that was moved is recognised by the digest of its audio.
    digests = writer.store.digests_under(roots)
    undone = {known.id for known in runs if known.kind == "undo"}
    return [
        entry
        for entry in journal.entries()
        if entry.run_id not in undone
        and (entry.digest in digests or any(root == entry.path or root in entry.path.parents for root in roots))
    ]

"""`musictagger undo`: put fields back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.options import ExistingPath, json_output, library_options, opened_journal, safety_options
from musictagger.errors import EXIT_SOME_FAILED, BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.tagging.journal import Entry, Journal


@click.command("undo")
@click.argument("paths", nargs=-1, type=ExistingPath)
@click.option("--run", type=int, metavar="ID", help="Undo this run (`musictagger history` lists them).")
@click.option("--last", is_flag=True, help="Undo the last run that wrote something and is not undone.")
@click.option("--dry-run", is_flag=True, help="Show what would be put back; touch no music file.")
@json_output
@safety_options
@library_options
def command(paths: tuple[Path, ...], run: int | None, last: bool, dry_run: bool, as_json: bool, **flags: Any) -> int:
    """Put every field back exactly as it was: of a run, of the last one, or of everything written to PATHS.

    PATHS are files or folders. A field that somebody changed since is left alone and reported. An undo is a run
    too, and can be undone.
    """
    from musictagger.cli import documents
    from musictagger.writing import undo_entries

    if sum([bool(paths), run is not None, last]) != 1:
        raise BadRequestError("say what to undo: --last, --run ID, or files and folders")
    with opened_journal(flags) as (store, journal, settings):
        entries = _chosen(journal, paths, run, last)
        if dry_run:
            for entry in entries:
                for name, values in entry.before.items():
                    click.echo(f"{printable(entry.path)}: {name} back to {'; '.join(values) or '(none)'}")
            return 0
        note = " ".join(map(printable, paths)) or f"run {entries[0].run_id if entries else run}"
        new_run = journal.start_run("undo", note)
        outcome = undo_entries(entries, new_run, journal, store, settings)
    if as_json:
        documents.print_json(documents.outcome_document(new_run, outcome))
    else:
        for path, reason in outcome.refused:
            click.echo(f"{printable(path)}: {printable(reason)}", err=True)
        click.echo(f"{len(outcome.written)} put back, {len(outcome.refused)} refused")
    return EXIT_SOME_FAILED if outcome.refused else 0


def _chosen(journal: Journal, paths: tuple[Path, ...], run: int | None, last: bool) -> list[Entry]:
    if last:
        open_runs = [entry for entry in journal.runs() if entry.kind != "undo" and entry.counts.get("written")]
        if not open_runs:
            raise BadRequestError("there is nothing to undo")
        run = open_runs[0].id
    if run is not None:
        if run not in {known.id for known in journal.runs()}:
            raise BadRequestError(f"there is no run {run}; `musictagger history` lists them")
        return journal.entries(run_id=run)
    from musictagger.audio.walk import absolute

    roots = [absolute(path) for path in paths]
    undone = {known.id for known in journal.runs() if known.kind == "undo"}
    return [
        entry
        for entry in journal.entries()
        if entry.run_id not in undone and any(root == entry.path or root in entry.path.parents for root in roots)
    ]

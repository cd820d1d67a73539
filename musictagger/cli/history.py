"""`musictagger history`: list what was written into files, by run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.options import debug_option, json_output
from musictagger.errors import BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.tags.journalfile import Run


@click.command("history")
@click.option("--run", type=int, metavar="ID", help="Show every file of this run.")
@json_output
@debug_option
def command(run: int | None, as_json: bool) -> int:
    """List the runs that wrote into files, newest first.

    `musictagger undo --run ID` takes one back.
    """
    from musictagger.config import load_settings
    from musictagger.tags.journal import Journal
    from musictagger.tags.journalfile import STATES

    journal_file = load_settings().journal_file
    if not journal_file.exists():
        raise BadRequestError("there is no history: nothing has been written yet")
    with Journal(journal_file, create=False) as journal:
        runs = [known for known in journal.runs() if run in (None, known.id)]
        if run is not None and not runs:
            raise BadRequestError(f"there is no run {run}; `musictagger history` lists them")
        entries = [] if run is None else journal.entries(run_id=run, states=STATES)
    if as_json:
        documents.print_json(documents.history_document(runs, entries))
        return 0
    _print(runs)
    for entry in entries:
        for name, after in entry.after.items():
            values = f"{'; '.join(entry.before[name]) or '(none)'} -> {'; '.join(after) or '(none)'}"
            reason = f" ({entry.reason})" if entry.reason else ""
            click.echo(printable(f"{entry.path}: {name} {values}: {entry.state}{reason}"))
    return 0


def _print(runs: list[Run]) -> None:
    from musictagger.cli import render

    counted = ("Written", "Undone", "Failed")
    table = render.table("Run", "When", "What", *counted, right=("Run", *counted))
    for run in runs:
        when = run.started_at.astimezone().strftime("%Y-%m-%d %H:%M")
        what = printable(f"{run.kind} {run.note}".strip())
        counts = [str(run.counts.get(state, 0)) for state in ("written", "undone", "failed")]
        table.add_row(str(run.id), when, what, *counts)
    render.console().print(table)

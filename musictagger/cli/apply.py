"""`musictagger apply`: write a plan into the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.options import json_output, safety_options, stoppable, view_options, write_options
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.library.store import Store
    from musictagger.tagging.journal import Journal
    from musictagger.tagging.plan import Plan
    from musictagger.writing import Outcome


@click.command("apply")
@click.argument("what", nargs=-1, metavar="[PLAN.json|QUERY]")
@json_output
@safety_options
@write_options
@view_options
def command(what: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Write a saved plan, or the plan for the tracks that QUERY finds (all, without one).

    A file that has changed since the plan was made is refused; the others are written. `musictagger undo` takes it
    back.
    """
    from musictagger.cli.plan import make_plan
    from musictagger.tagging.plan import load_plan

    saved = len(what) == 1 and what[0].endswith(".json")
    plan = load_plan(Path(what[0])) if saved else make_plan(" ".join(what), flags)
    return apply_plan(plan, " ".join(what), as_json, flags)


def apply_plan(plan: Plan, note: str, as_json: bool, flags: dict[str, Any]) -> int:
    """Write a plan through the journal and say what became of it; the exit code."""
    from musictagger.cli.options import opened_journal

    with opened_journal(flags) as (store, journal, settings):
        return apply_opened(plan, note, as_json, store, journal, settings)


def apply_opened(plan: Plan, note: str, as_json: bool, store: Store, journal: Journal, settings: Settings) -> int:
    """The same with everything open already."""
    from musictagger.writing import apply_changes

    run = journal.start_run("apply", note)
    with stoppable(lambda text: click.echo(text, err=True)) as stop:
        outcome = apply_changes(plan.changes, run, journal, store, settings, stop=stop)
    hint = f"; `musictagger undo --run {run}` takes it back" if outcome.written else ""
    return tell(run, outcome, as_json, "written", hint)


def tell(run: int, outcome: Outcome, as_json: bool, done: str, hint: str = "") -> int:
    """Say what became of files; the exit code."""
    from musictagger.cli import documents

    if as_json:
        documents.print_json(documents.outcome_document(run, outcome))
    else:
        for path, reason in outcome.refused:
            click.echo(f"{printable(path)}: {printable(reason)}", err=True)
        click.echo(f"{len(outcome.written)} {done}, {len(outcome.refused)} refused{hint}")
    if outcome.stopped:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if outcome.refused else 0

"""What plan, review, apply, undo and fix share: a plan from the command line, writing it, telling what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musictagger.cli.options import given_settings, opened_journal, opened_view, stoppable
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.library.store import Store
    from musictagger.pipeline.writing import Outcome
    from musictagger.tags.journal import Journal
    from musictagger.tags.plan import Plan

PLANNING = (
    *("write", "moods", "provenance", "model", "aggregate"),
    *("min_score", "max_genres", "keep_parents", "genres_allow"),
)
"""Flags that say what a plan is to hold. They come too late for one that was saved."""


def wanted_plan(what: tuple[str, ...], settings: Settings) -> Plan:
    """The saved plan that `what` names, or the plan for the tracks of the query that it is.

    Raises BadRequestError for a saved one together with flags that it would not heed.
    """
    from musictagger.tags.plan import load_plan

    if len(what) != 1 or not what[0].endswith(".json"):
        return make_plan(" ".join(what), settings)
    late = [f"--{name.replace('_', '-')}" for name in PLANNING if name in given_settings()]
    if late:
        raise BadRequestError(
            f"{printable(what[0])}: what it writes was settled when it was planned, without {', '.join(late)}; "
            "leave that out, or plan again with it"
        )
    return load_plan(Path(what[0]))


def make_plan(query: str, settings: Settings) -> Plan:
    """The plan for the tracks of a query."""
    from musictagger.library.query import parse
    from musictagger.library.view import search
    from musictagger.pipeline.writing import plan_track
    from musictagger.tags.plan import Plan

    with opened_view(settings) as (store, model_id, view):
        tracks = search(store, model_id, view, parse(query, view.card))
        changes = [plan_track(track, settings) for track in tracks]
        return Plan(tuple(change for change in changes if change is not None), view.card.name)


def apply_plan(plan: Plan, note: str, as_json: bool, settings: Settings) -> int:
    """Write a plan through the journal and say what became of it; the exit code."""
    with opened_journal(settings) as (store, journal):
        return apply_opened(plan, note, as_json, store, journal, settings)


def apply_opened(plan: Plan, note: str, as_json: bool, store: Store, journal: Journal, settings: Settings) -> int:
    """The same with everything open already."""
    from musictagger.cli import progress
    from musictagger.pipeline.writing import TagWriter
    from musictagger.tags.safewrite import WriteOptions

    run = journal.start_run("apply", note)
    with progress.reporter(quiet=False) as reporter, stoppable(reporter):
        writer = TagWriter(journal, store, WriteOptions.of(settings))
        outcome = writer.apply(plan.changes, run, stop=lambda: reporter.stopping)
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

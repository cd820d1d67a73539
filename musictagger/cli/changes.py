"""Shared by plan, review, apply, undo and fix: make or load a plan, write it, report the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.options import given_settings, opened_view, stoppable
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.pipeline.writing import TagWriter, WriteOutcome
    from musictagger.tags.plan import Plan

PLANNING = (
    *("write", "moods", "provenance", "model", "aggregate"),
    *("min_score", "max_genres", "keep_parents", "genres_allow"),
)
"""Flags that decide the content of a plan, and so cannot be used with a saved one."""


def wanted_plan(plan_or_query: tuple[str, ...], settings: Settings) -> Plan:
    """Load the plan if `plan_or_query` is a file name that ends in .json, else make one for the tracks of the query.

    Raises BadRequestError for a saved plan together with flags that would have no effect on it.
    """
    from musictagger.tags.plan import load_plan

    if len(plan_or_query) != 1 or not plan_or_query[0].endswith(".json"):
        return make_plan(" ".join(plan_or_query), settings)
    late = [f"--{name.replace('_', '-')}" for name in PLANNING if name in given_settings()]
    if late:
        raise BadRequestError(
            f"{printable(plan_or_query[0])}: this plan was made without {', '.join(late)}; "
            "leave that out, or make the plan again with it"
        )
    return load_plan(Path(plan_or_query[0]))


def make_plan(query: str, settings: Settings) -> Plan:
    """The plan for the tracks of a query."""
    from musictagger.library.query import parse
    from musictagger.library.view import search
    from musictagger.pipeline.writing import plan_tracks
    from musictagger.tags.plan import Plan

    with opened_view(settings) as (store, model_id, view):
        tracks = search(store, model_id, view, parse(query, view.card))
        return Plan(tuple(plan_tracks(tracks, settings)), view.card.name)


def apply_plan(plan: Plan, note: str, as_json: bool, writer: TagWriter) -> int:
    """Write a plan through the journal and report the outcome; returns the exit code."""
    from musictagger.cli import progress

    run = writer.journal.start_run("apply", note)
    with progress.reporter(quiet=False) as reporter, stoppable(reporter):
        outcome = writer.apply(plan.changes, run, reporter)
    hint = f"; `musictagger undo --run {run}` takes it back" if outcome.written else ""
    return report_outcome(run, outcome, as_json, "written", hint)


def report_outcome(run: int, outcome: WriteOutcome, as_json: bool, done: str, hint: str = "") -> int:
    """Print how many files were written and refused; returns the exit code."""
    if as_json:
        documents.print_json(documents.outcome_document(run, outcome))
    else:
        click.echo(f"{len(outcome.written)} {done}, {len(outcome.refused)} refused{hint}")
    if outcome.stopped:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if outcome.refused else 0

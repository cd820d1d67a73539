"""`musictagger apply`: write a plan into the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from musictagger.cli.changes import apply_plan, wanted_plan
from musictagger.cli.options import (
    json_output,
    opened_writer,
    pass_settings,
    safety_options,
    view_options,
    write_options,
)

if TYPE_CHECKING:
    from musictagger.config import Settings


@click.command("apply")
@click.argument("plan_or_query", nargs=-1, metavar="[PLAN.json|QUERY]")
@json_output
@safety_options
@write_options
@view_options
@pass_settings
def command(plan_or_query: tuple[str, ...], as_json: bool, settings: Settings) -> int:
    """Write a saved plan, or the plan for the tracks of a query.

    Without PLAN.json and QUERY, all tracks are planned. A file that has changed since the plan was made is refused;
    the others are written. `musictagger undo` takes it back. Options that decide what is written, such as --write,
    cannot be combined with a saved plan.
    """
    plan = wanted_plan(plan_or_query, settings)
    with opened_writer(settings) as writer:
        return apply_plan(plan, " ".join(plan_or_query), as_json, writer)

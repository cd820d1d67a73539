"""`musictagger plan`: what would be written, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.options import ExistingPath, json_output, opened_view, view_options, write_options

if TYPE_CHECKING:
    from musictagger.tagging.plan import Plan


@click.command("plan")
@click.argument("query", nargs=-1)
@click.option("--out", type=ExistingPath, metavar="FILE", help="Save the plan as JSON, for `musictagger apply FILE`.")
@json_output
@write_options
@view_options
def command(query: tuple[str, ...], out: Path | None, as_json: bool, **flags: Any) -> int:
    """Show what would be written into the files that QUERY finds (all, without one), and why. Writes nothing.

    The plan is computed from the library: no file is opened.
    """
    from musictagger.cli import documents
    from musictagger.tagging.plan import save_plan

    plan = make_plan(" ".join(query), flags)
    if out:
        save_plan(plan, out)
    if as_json:
        documents.print_json(plan.to_json())
        return 0
    print_plan(plan)
    if out and plan.changes:
        click.echo(f"saved; `musictagger apply {out}` writes it")
    return 0


def make_plan(query: str, flags: dict[str, Any]) -> Plan:
    """The plan for the tracks of a query under the settings of the flags."""
    from musictagger.config import load_settings
    from musictagger.library.query import parse
    from musictagger.library.view import search
    from musictagger.tagging.plan import Plan
    from musictagger.writing import plan_track

    settings = load_settings(flags)
    with opened_view(flags) as (store, model_id, view):
        tracks = search(store, model_id, view, parse(query, view.card))
        changes = [plan_track(track, settings) for track in tracks]
        return Plan(tuple(change for change in changes if change is not None), view.card.name)


def print_plan(plan: Plan) -> None:
    """Each file with its fields, before and after."""
    from musictagger.cli import render

    console = render.console()
    for change in plan.changes:
        console.print(render.change_text(change), soft_wrap=True)
    files = "file" if len(plan.changes) == 1 else "files"
    console.print(f"{len(plan.changes)} {files} would change", style="dim")

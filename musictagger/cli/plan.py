"""`musictagger plan`: show what would be written, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.changes import make_plan
from musictagger.cli.options import ANY_PATH, json_output, pass_settings, view_options, write_options
from musictagger.errors import printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.tags.plan import Plan


@click.command("plan")
@click.argument("query", nargs=-1)
@click.option("--out", type=ANY_PATH, metavar="FILE", help="Save the plan as JSON, for `musictagger apply FILE`.")
@json_output
@write_options
@view_options
@pass_settings
def command(query: tuple[str, ...], out: Path | None, as_json: bool, settings: Settings) -> int:
    """Show what would be written into files, and why.

    QUERY selects the tracks; without it, all are planned. The plan is computed from the library: no file is opened,
    and none is written.
    """
    from musictagger.tags.plan import save_plan

    plan = make_plan(" ".join(query), settings)
    if out:
        save_plan(plan, out)
    if as_json:
        documents.print_json(plan.to_json())
        return 0
    _print(plan)
    if out and plan.changes:
        click.echo(f"saved; `musictagger apply {printable(out)}` writes it")
    return 0


def _print(plan: Plan) -> None:
    """Each file with its fields, before and after."""
    from musictagger.cli import render

    console = render.console()
    for change in plan.changes:
        console.print(render.change_text(change), soft_wrap=True)
    files = "file" if len(plan.changes) == 1 else "files"
    console.print(f"{len(plan.changes)} {files} would change", style="dim")

"""`musictagger recipes`: list the training recipes, or show the options of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from musictagger.cli import documents
from musictagger.cli.options import debug_option, json_output

if TYPE_CHECKING:
    from musictagger.training.recipes import Recipe


@click.command("recipes")
@click.argument("name", required=False)
@json_output
@debug_option
def command(name: str | None, as_json: bool) -> int:
    """List training recipes and the results of their papers.

    With NAME, show that recipe and all its options. NAME may also be a TOML file of your own. `musictagger train
    --recipe NAME --data FOLDER` trains with it.
    """
    from musictagger.training.recipes import find_recipe, recipes

    found = [find_recipe(name)] if name else recipes()
    if as_json:
        documents.print_json({"schema": documents.RECIPES, "recipes": [_document(recipe) for recipe in found]})
    elif name:
        _show(found[0])
    else:
        _list(found)
    return 0


def _document(recipe: Recipe) -> dict[str, Any]:
    from musictagger.training.recipes import option_lines

    return {
        "name": recipe.name,
        "title": recipe.title,
        "source": recipe.source,
        "data": recipe.data,
        "paper": dict(recipe.paper),
        "paper_where": recipe.paper_where,
        "notes": list(recipe.notes),
        "options": [
            {"name": option, "value": value, "origin": origin} for option, value, origin in option_lines(recipe)
        ],
    }


def _list(found: list[Recipe]) -> None:
    from rich.markup import escape

    from musictagger.cli import render
    from musictagger.training.options import DEFAULT_BACKBONE
    from musictagger.training.recipes import options_of

    table = render.table("Recipe", "Description", "Dataset", "Backbone", "Paper's result")
    for recipe in found:
        options = options_of(recipe, {})
        backbone = options.backbone or (f"from {options.init}" if options.init else DEFAULT_BACKBONE)
        table.add_row(recipe.name, escape(recipe.title), options.dataset, escape(backbone), _result(recipe))
    render.console().print(table)


def _result(recipe: Recipe) -> str:
    """Return the first, most important metric of a recipe's paper."""
    from musictagger.cli.metrics import title

    name = next(iter(recipe.paper), None)
    return "" if name is None else f"{title(name)} {recipe.paper[name]:g}"


def _show(recipe: Recipe) -> None:
    from rich.markup import escape

    from musictagger.cli import render
    from musictagger.cli.metrics import title
    from musictagger.training.recipes import option_lines

    console = render.console()
    paper = ", ".join(f"{title(name)} {value:g}" for name, value in recipe.paper.items()) or "no metrics"
    facts = (("Recipe", recipe.name), ("Description", recipe.title), ("Source", recipe.source), ("Data", recipe.data))
    where = f" ({recipe.paper_where})" if recipe.paper_where else ""
    for label, text in (*facts, ("Paper", f"{paper}{where}"), *(("Note", note) for note in recipe.notes)):
        console.print(f"{label:<11} {text}", markup=False, soft_wrap=True)
    table = render.table("Option", "Value", "From")
    for name, value, origin in option_lines(recipe):
        shown = "none" if value is None else str(value)
        table.add_row(name, escape(shown), escape(origin), style="dim" if origin == "default" else "")
    console.print()
    console.print(table)

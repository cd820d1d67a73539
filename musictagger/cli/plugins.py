"""`musictagger plugins`: the backbones found, and those that are broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.options import json_output, pass_settings, plugin_options

if TYPE_CHECKING:
    from musictagger.config import Settings


@click.command("plugins")
@json_output
@plugin_options
@pass_settings
def command(as_json: bool, settings: Settings) -> int:
    """List the backbones and their files; broken ones with the reason."""
    from pathlib import Path

    from rich.markup import escape

    from musictagger.cli import render
    from musictagger.models.registry import find_plugins

    plugins = find_plugins(settings.plugin_folders)
    if as_json:
        listed = [
            {"name": plugin.name, "origin": plugin.origin, "summary": plugin.summary, "error": plugin.error or None}
            for plugin in plugins
        ]
        documents.print_json({"schema": documents.PLUGINS, "plugins": listed})
        return 0
    table = render.table("Backbone", "Description", "Location")
    for plugin in plugins:
        broken = plugin.backbone is None
        what = f"broken: {plugin.error}" if broken else plugin.summary
        cells = (plugin.name, what, render.home_short(Path(plugin.origin)))
        table.add_row(*map(escape, cells), style="red" if broken else "")
    render.console().print(table)
    return 0

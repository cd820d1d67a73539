"""`musictagger failed`: the files that could not be read or decoded, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from musictagger.cli import documents
from musictagger.cli.options import json_output, library_options, pass_settings

if TYPE_CHECKING:
    from musictagger.config import Settings


@click.command("failed")
@json_output
@library_options
@pass_settings
def command(as_json: bool, settings: Settings) -> int:
    """List the files that could not be read or decoded, and why.

    A scan tries them again when they change, or with --retry-failed.
    """
    from musictagger.errors import printable
    from musictagger.library.opening import open_library

    with open_library(settings.db_location) as library:
        failures = library.failures()
    if as_json:
        documents.print_json({"schema": documents.FAILED, "failures": documents.failure_list(failures)})
        return 0
    for path, reason in failures:
        click.echo(f"{printable(path)}: {printable(reason)}")
    if not failures:
        click.echo("no file failed")
    return 0

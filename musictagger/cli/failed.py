"""`musictagger failed`: the files that could not be read or decoded, and why."""

from __future__ import annotations

from typing import Any

import click

from musictagger.cli.options import json_output, library_options


@click.command("failed")
@json_output
@library_options
def command(as_json: bool, **flags: Any) -> int:
    """List the files that could not be read or decoded, with the reason.

    A scan tries them again when they change, or with --retry-failed.
    """
    from musictagger.cli import documents
    from musictagger.config import load_settings
    from musictagger.errors import printable
    from musictagger.library.opening import open_library

    with open_library(load_settings(flags).db_location) as library:
        failures = library.failures()
    if as_json:
        documents.print_json({"schema": documents.FAILED, "failures": documents.failure_list(failures)})
        return 0
    for path, reason in failures:
        click.echo(f"{printable(path)}: {printable(reason)}")
    if not failures:
        click.echo("no file failed")
    return 0

"""`musictagger weights`: fetch published models."""

from __future__ import annotations

import click

from musictagger.cli.options import debug_option


@click.group("weights")
def command() -> None:
    """Fetch published models."""


@command.command("pull")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@debug_option
def pull(names: tuple[str, ...]) -> int:
    """Fetch the published models NAME, verify them and convert them to safetensors with a card.

    `musictagger models` lists the names. They are stored in the user's data folder.
    """
    import tempfile
    from pathlib import Path

    from musictagger.cli import progress
    from musictagger.config import load_settings
    from musictagger.models import catalogue

    settings = load_settings()
    for name in names:
        catalogue.entry(name)
    with tempfile.TemporaryDirectory(prefix="musictagger-") as downloads, progress.reporter(quiet=False) as reporter:
        for name in names:
            folder = settings.model_folders[0]
            catalogue.pull(name, folder, say=reporter.say, progress=reporter.fetched, downloads=Path(downloads))
            click.echo(f"licence: {catalogue.entry(name).licence}")
            click.echo(f"by: {catalogue.entry(name).attribution}")
    return 0

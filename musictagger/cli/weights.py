"""`musictagger weights`: fetch published models, and import their files."""

from __future__ import annotations

from pathlib import Path

import click

from musictagger.cli.options import debug_option


@click.group("weights")
def command() -> None:
    """Fetch published models, or import their weights from a file."""


@command.command("pull")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@debug_option
def pull(names: tuple[str, ...]) -> int:
    """Fetch published models and convert them to our format.

    `musictagger models` lists the names. Each download is verified. Models are stored in the user's data folder. An
    interrupted download of the models won-* and choi-* is resumed by the next pull; the other models are fetched with
    pip, which starts again.
    """
    import tempfile

    from musictagger.cli import progress
    from musictagger.config import load_settings
    from musictagger.models.published import catalogue
    from musictagger.models.published.pull import pull as pull_model

    settings = load_settings()
    for name in names:
        catalogue.entry(name)
    with tempfile.TemporaryDirectory(prefix="musictagger-") as downloads, progress.reporter(quiet=False) as reporter:
        for name in names:
            folder = settings.model_folders[0]
            pull_model(name, folder, progress=reporter, downloads=Path(downloads))
            reporter.close()
            click.echo(f"licence: {catalogue.entry(name).licence}")
            click.echo(f"by: {catalogue.entry(name).attribution}")
    return 0


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["won", "choi", "musicnn"]),
    help="Format of the file: won (.pth of sota-music-tagging-models), choi (.h5 of music-auto_tagging-keras), or "
    "musicnn (folder of a checkpoint).",
)
@click.option("--name", required=True, help="Name of the new model.")
@click.option(
    "--vocabulary",
    default="",
    metavar="msd|mtat",
    help="Data set whose 50 tags the outputs are; default: that of the catalogue, or the one named in the file's path.",
)
@debug_option
def import_(file: Path, form: str, name: str, vocabulary: str) -> int:
    """Make a model of the published weights in FILE.

    FILE is in its authors' format; the model is stored in the user's data folder. Use it like any other model:
    `musictagger scan --model NAME`.
    """
    from musictagger.cli import progress
    from musictagger.config import load_settings
    from musictagger.models.find import find_models
    from musictagger.models.published.pull import import_file

    folders = load_settings().model_folders
    taken = {model.name for model in find_models(folders)}
    with progress.reporter(quiet=False) as reporter:
        import_file(file, form, name, folders[0], taken=taken, vocabulary=vocabulary, progress=reporter)
    return 0

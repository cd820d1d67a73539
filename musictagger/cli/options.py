"""Options that several commands share, and functions that open what they name. Nothing heavy is imported at the top."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from musictagger.cli.progress import Quiet
    from musictagger.config import Settings
    from musictagger.library.reader import LibraryReader
    from musictagger.library.view import View
    from musictagger.models.card import Card
    from musictagger.pipeline.writing import TagWriter

Command = TypeVar("Command", bound=Callable[..., Any])


class _NonEmptyPath(click.Path):
    """A path that is not empty: `musictagger scan "$MUSIC"` with MUSIC unset must not scan the current folder."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty", parameter, context)
        return super().convert(value, parameter, context)


ANY_PATH = _NonEmptyPath(path_type=Path)

_GIVEN = "musictagger.settings"
json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON; docs/json.md describes it.")
quiet_option = click.option("--quiet", is_flag=True, help="Print failures only.")
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")


def chain(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds several options to a command, in this order."""

    def decorate(command: Command) -> Command:
        return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)

    return decorate


def at_least(minimum: int) -> Callable[[click.Context, click.Parameter, int | None], int | None]:
    """Return a callback that refuses a smaller number. Unlike an IntRange it adds no `[x>=0]` to the help."""

    def check(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
        if value is not None and value < minimum:
            raise click.BadParameter(f"{value} is less than {minimum}")
        return value

    return check


def given_settings() -> dict[str, Any]:
    """Return the settings given as options to the command that is running, by name."""
    given: dict[str, Any] = click.get_current_context().meta.setdefault(_GIVEN, {})
    return given


def pass_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command whose parameter `settings` holds all settings, those given as options among them."""

    @functools.wraps(command)
    def run(*arguments: Any, **values: Any) -> Any:
        from musictagger.config import load_settings

        return command(*arguments, settings=load_settings(given_settings()), **values)

    return run


def _setting(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """Return an option that is a setting, and reaches the command through `pass_settings` only."""

    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value != ():
            given_settings()[str(parameter.name)] = value

    return click.option(*names, expose_value=False, callback=keep, **attributes)


def _switch(name: str, help_text: str) -> Callable[[Command], Command]:
    # None, not False, so that the configuration file decides for a switch that is not given.
    return _setting(name, is_flag=True, default=None, help=help_text)


_DB = _setting("--db", metavar="PATH|URL", help="The library's database. Default: library.db in the data folder.")
_MODEL = _setting(
    "--model", metavar="NAME|FILE", help="A model's name (see `musictagger models`) or .safetensors file."
)
_PLUGIN_DIR = _setting(
    "--plugin-dir",
    multiple=True,
    type=_NonEmptyPath(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Also look for backbones in this folder. Repeatable.",
)
aggregate_option = _setting(
    "--aggregate",
    type=click.Choice(["mean", "median", "geometric", "max"]),
    help="How to combine the scores of a track's frames. Default: mean.",
)
device_option = _setting("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1 or mps.")
workers_option = _setting("--workers", type=int, metavar="N", help="Decoding processes. Default: by cores and device.")
batch_size_option = _setting("--batch-size", type=int, metavar="N", help="Frames per batch. Default: by device.")

plugin_options = chain(_PLUGIN_DIR, debug_option)
library_options = chain(_DB, debug_option)
model_options = chain(_MODEL, _PLUGIN_DIR)
score_options = chain(
    aggregate_option,
    _setting(
        "--min-score", type=float, metavar="SCORE", help="Score from which a track has a tag. Default: from the model."
    ),
    _setting("--max-genres", type=int, metavar="N", help="Maximum number of genres per track. Default: 2."),
    _switch("--keep-parents", "Also write genres that another implies: Rock beside Indie Rock."),
    _setting("--genres-allow", type=ANY_PATH, metavar="FILE", help="Only use the genres in this file, one a line."),
)
view_options = chain(_MODEL, score_options, _DB, debug_option)
write_options = chain(
    _setting(
        "--write",
        type=click.Choice(["fill", "append", "replace", "none"]),
        help="Fill empty fields (default), append to fields, replace them, or write none.",
    ),
    _switch("--moods", "Also write moods, into the mood field."),
    _switch("--provenance", "Also write model, version, scores and time, into a field of their own."),
    _setting("--id3v23-join", metavar="TEXT", help="Separator of values in ID3v2.3, which holds one. Default: '; '."),
)
safety_options = chain(
    _switch("--preserve-mtime", "Keep the modification time of written files."),
    _switch("--break-hardlinks", "Also write files that have several names; only this name gets the new content."),
)
scan_options = chain(
    _setting("--frames", type=int, metavar="N", help="At most N frames per track, evenly spaced. Default: all."),
    _setting("--trim-edges", type=float, metavar="SECONDS", help="Skip this much at both ends of a track. Default: 5."),
    device_option,
    batch_size_option,
    workers_option,
    _setting("--decode-timeout", type=float, metavar="SECONDS", help="Give up on a file that stalls. Default: 120."),
)


@contextmanager
def opened_view(settings: Settings) -> Iterator[tuple[LibraryReader, int, View]]:
    """Open the library; yield it, the id of the chosen (or last used) model in it, and the view of its scores.

    Raises StoreError if there is no library, BadRequestError if the model has analysed nothing in it.
    """
    from musictagger.library.opening import open_library

    with open_library(settings.db_location) as library:
        yield library, *chosen_view(library, settings)


def chosen_view(library: LibraryReader, settings: Settings) -> tuple[int, View]:
    """Return the id of the chosen (or last used) model in the library, and the view of its scores.

    Raises BadRequestError if the model has analysed nothing in it.
    """
    from musictagger.library.view import view_of

    model_id, card = _chosen_model(library, settings)
    return model_id, view_of(card, settings)


def _chosen_model(library: LibraryReader, settings: Settings) -> tuple[int, Card]:
    """Return the model's id in the library and its card: from disk, or, if it is gone, as of the last scan.

    Models are compared by what they compute (`Card.key`), so a copy under another name or with other thresholds is a
    view of the same scores.
    """
    wanted = settings.model
    models = library.models(limit=None if wanted else 1)
    if not wanted and models:
        return models[0]
    from musictagger.errors import BadRequestError, ModelError
    from musictagger.models.card import Card
    from musictagger.models.find import find_model

    card, unknown = None, "run `musictagger scan` with it first"
    try:
        weights = find_model(wanted, settings.model_folders) if wanted else None
        card = Card.load(weights.with_suffix(".json")) if weights else None
    except (BadRequestError, ModelError) as error:
        unknown = str(error)
    if card is not None and (same := [id_ for id_, known in models if known.key == card.key]):
        return same[0], card
    stem = Path(wanted).stem if wanted.endswith(".safetensors") else wanted
    if named := [(id_, known) for id_, known in models if known.name == stem]:
        return named[0]
    known_names = ", ".join(dict.fromkeys(known.name for _, known in models)) or "none"
    raise BadRequestError(
        f"{library.location}: model {wanted!r} has no scores here (models that have: {known_names}); {unknown}"
    )


@contextmanager
def opened_writer(settings: Settings, *, new: bool = False) -> Iterator[TagWriter]:
    """Open the library and the journal for writing; interrupted writes are settled first.

    A library that the settings name must exist, unless `new`. The default one may have been deleted: the journal still
    knows what was written. Raises StoreError if another process is writing to the same library.
    """
    from musictagger.library.database import exclusive
    from musictagger.library.store import Store
    from musictagger.pipeline.writing import TagWriter
    from musictagger.tags.journal import Journal
    from musictagger.tags.safewrite import WriteOptions

    create = new or not settings.db
    with (
        exclusive(settings.db_location, create=create),
        Store(settings.db_location, create=create) as store,
        Journal(settings.journal_file) as journal,
    ):
        writer = TagWriter(journal, store, WriteOptions.of(settings))
        writer.recover()
        yield writer


@contextmanager
def stoppable(reporter: Quiet) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) sets `reporter.stopping`; the second one raises KeyboardInterrupt."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if reporter.stopping:
            raise KeyboardInterrupt
        reporter.stopping = True
        reporter.say("stopping: finishing the work in progress; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

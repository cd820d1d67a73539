"""Options that several commands share, and what they mean together. Imports nothing heavy at the top."""

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
    from musictagger.library.store import Store
    from musictagger.library.view import View
    from musictagger.models.card import Card
    from musictagger.tags.journal import Journal

Command = TypeVar("Command", bound=Callable[..., Any])


class _NamedPath(click.Path):
    """A path that was really given: `musictagger scan "$MUSIC"` without MUSIC must not mean this folder."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty", parameter, context)
        return super().convert(value, parameter, context)


ExistingPath = _NamedPath(path_type=Path)

_DEBUG = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
_DB = click.option(
    "--db", metavar="PATH|URL", help="Database; default: library.db in the user's data folder (MUSICTAGGER_DB)."
)
_MODEL = click.option(
    "--model", metavar="NAME|FILE", help="Model by name (see `musictagger models`) or .safetensors file."
)
_PLUGIN_DIR = click.option(
    "--plugin-dir",
    multiple=True,
    type=_NamedPath(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Look for backbones here too; repeatable.",
)
_AGGREGATE = click.option(
    "--aggregate",
    type=click.Choice(["mean", "median", "geometric", "max"]),
    help="How the scores of a track's frames become one; default: mean.",
)
_MIN_SCORE = click.option(
    "--min-score", type=float, metavar="SCORE", help="A track has a tag from this score on; default: the model's own."
)
_KEEP_PARENTS = click.option(
    "--keep-parents", is_flag=True, default=None, help="Write Rock beside Indie Rock, which implies it."
)
_GENRES_ALLOW = click.option(
    "--genres-allow", type=ExistingPath, metavar="FILE", help="Choose only genres listed in this file, one a line."
)
_MAX_GENRES = click.option("--max-genres", type=int, metavar="N", help="At most so many genres a track; default: 2.")
json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON (its schema: docs/json.md).")


def chain(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)

    return decorate


_WRITE = click.option(
    "--write",
    type=click.Choice(["fill", "append", "replace", "none"]),
    help="Fields: fill empty ones (default), append to them, replace them, or write none.",
)
_MOODS = click.option("--moods", is_flag=True, default=None, help="Write moods too, into the mood field.")
_PROVENANCE = click.option(
    "--provenance", is_flag=True, default=None, help="Write model, version, scores and time into a field of our own."
)
_PRESERVE_MTIME = click.option(
    "--preserve-mtime", is_flag=True, default=None, help="Keep the modification time of files written."
)
_BREAK_HARDLINKS = click.option(
    "--break-hardlinks", is_flag=True, default=None, help="Write files with several names too; only this name changes."
)
_JOIN = click.option(
    "--id3v23-join", metavar="TEXT", help="Between several values in ID3v2.3, which holds one; default: '; '."
)

debug_option = _DEBUG
plugin_options = chain(_PLUGIN_DIR, _DEBUG)
library_options = chain(_DB, _DEBUG)
score_options = chain(_AGGREGATE, _MIN_SCORE, _MAX_GENRES, _KEEP_PARENTS, _GENRES_ALLOW)
view_options = chain(_MODEL, score_options, _DB, _DEBUG)
model_options = chain(_MODEL, _PLUGIN_DIR)
write_options = chain(_WRITE, _MOODS, _PROVENANCE, _JOIN)
safety_options = chain(_PRESERVE_MTIME, _BREAK_HARDLINKS)


@contextmanager
def opened_view(flags: dict[str, Any]) -> Iterator[tuple[LibraryReader, int, View]]:
    """The library, the id of the model asked for (or last used) in it, and the view that the flags ask for.

    Raises StoreError where there is no library, BadRequestError where the model analysed nothing in it.
    """
    from musictagger.config import load_settings
    from musictagger.library.opening import open_library

    settings = load_settings(flags)
    with open_library(settings.db_location) as library:
        yield library, *chosen_view(library, settings)


def chosen_view(library: LibraryReader, settings: Settings) -> tuple[int, View]:
    """The id of the model that the settings name (or that was last used), and the view that they ask for.

    Raises BadRequestError where the model analysed nothing in the library.
    """
    from musictagger.library.view import view_of

    model_id, card = _asked_model(library, settings)
    return model_id, view_of(card, settings)


def _asked_model(library: LibraryReader, settings: Settings) -> tuple[int, Card]:
    """Its id in the library and its card: as it lies on disk now, or, where it is gone, as it was at the last scan.

    What counts is what the model computes (`Card.key`), so a copy under another name or with other thresholds is a
    view of the same scores.
    """
    from musictagger.errors import BadRequestError, ModelError
    from musictagger.models.card import Card
    from musictagger.models.find import find_model

    models, wanted = library.models(), settings.model
    if not wanted and models:
        return models[0]
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
        f"{library.location}: model {wanted!r} has analysed nothing here (these have: {known_names}); {unknown}"
    )


@contextmanager
def opened_journal(flags: dict[str, Any], *, new: bool = False) -> Iterator[tuple[Store, Journal, Settings]]:
    """The library to write to, the journal with what a killed run left open settled, and the settings.

    A library that is named must be there, unless a `new` one will do; the default one may have been thrown away, and
    the journal still knows what was written. Raises StoreError when another process is writing to the same library.
    """
    from musictagger.config import load_settings
    from musictagger.library.database import exclusive
    from musictagger.library.store import Store
    from musictagger.pipeline.writing import TagWriter
    from musictagger.tags.journal import Journal
    from musictagger.tags.safewrite import WriteOptions

    settings = load_settings(flags)
    create = new or not settings.db
    with (
        exclusive(settings.db_location, create=create),
        Store(settings.db_location, create=create) as store,
        Journal(settings.journal_file) as journal,
    ):
        TagWriter(journal, store, WriteOptions.of(settings)).recover()
        yield store, journal, settings


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

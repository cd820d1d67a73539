"""Options that several commands share, and what they mean together. Imports nothing heavy at the top."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from musictagger.library.store import Store
    from musictagger.library.view import View

Command = TypeVar("Command", bound=Callable[..., Any])
ExistingPath = click.Path(path_type=Path)

_DEBUG = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
_DB = click.option(
    "--db", metavar="PATH|URL", help="Database; default: library.db in the user's data folder (MUSICTAGGER_DB)."
)
_MODEL = click.option(
    "--model", metavar="NAME|FILE", help="Model by name (see `musictagger models`) or .safetensors file."
)
_PLUGIN_DIR = click.option(
    "--plugin-dir", multiple=True, type=ExistingPath, metavar="FOLDER", help="Look for backbones here too; repeatable."
)
_AGGREGATE = click.option(
    "--aggregate",
    type=click.Choice(["mean", "median", "geometric", "max"]),
    help="How the scores of a track's frames become one; default: mean.",
)
_MIN_SCORE = click.option(
    "--min-score", type=float, metavar="SCORE", help="A track has a tag from this score on; default: the model's own."
)
_MAX_GENRES = click.option("--max-genres", type=int, metavar="N", help="At most so many genres a track; default: 2.")
json_output = click.option("--json", "as_json", is_flag=True, help="Print JSON (its schema: docs/json.md).")


def _chain(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)

    return decorate


debug_option = _DEBUG
plugin_options = _chain(_PLUGIN_DIR, _DEBUG)
library_options = _chain(_DB, _DEBUG)
view_options = _chain(_MODEL, _AGGREGATE, _MIN_SCORE, _MAX_GENRES, _DB, _DEBUG)
model_options = _chain(_MODEL, _PLUGIN_DIR)
score_options = _chain(_AGGREGATE, _MIN_SCORE, _MAX_GENRES)


@contextmanager
def opened_view(flags: dict[str, Any]) -> Iterator[tuple[Store, int, View]]:
    """The library, the id of the model asked for (or last used) in it, and the view that the flags ask for.

    Raises StoreError where there is no library, BadRequestError where the model analysed nothing in it.
    """
    from musictagger.config import load_settings
    from musictagger.errors import BadRequestError
    from musictagger.library.store import Store
    from musictagger.library.view import View

    settings = load_settings(flags)
    with Store(settings.db_location) as store:
        wanted = Path(settings.model).stem if settings.model.endswith(".safetensors") else settings.model
        models = [(id_, card) for id_, card, _ in store.models()]
        named = [(id_, card) for id_, card in models if not wanted or card.name == wanted]
        if not named:
            known = ", ".join(dict.fromkeys(card.name for _, card in models)) or "none"
            raise BadRequestError(
                f"{store.location}: model {wanted!r} has analysed nothing here (these have: {known}); "
                "run `musictagger scan` with it first"
            )
        model_id, card = named[0]
        yield store, model_id, View(card, settings.aggregate, settings.max_genres, settings.min_score)

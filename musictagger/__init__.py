"""Tag a music collection by what it sounds like.

The public API is small: `Tagger` loads a model once and tags many files.

    >>> from musictagger import Tagger
    >>> Tagger().tag("song.mp3").genres
    ('Jazz',)

Importing this package imports neither torch nor SQLAlchemy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from musictagger.version import __version__

if TYPE_CHECKING:
    from musictagger.api import Tagger, TrackTags

__all__ = ["Tagger", "TrackTags", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the API, and torch with it, when it is first asked for (PEP 562)."""
    if name in {"Tagger", "TrackTags"}:
        from musictagger import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

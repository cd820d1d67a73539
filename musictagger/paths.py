"""Where things live: what ships with the program, and the user's own folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

TEMPORARY_PREFIX = ".musictagger-"
"""What the names of our temporary copies beside music files begin with."""

_PACKAGE = Path(__file__).parent


def bundled_folder(name: Literal["plugins", "weights"]) -> Path:
    """A folder that ships with the program: inside the installed package, beside it in a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def user_data_folder() -> Path:
    """The platform's data folder of this program (not created)."""
    import platformdirs

    return platformdirs.user_data_path("musictagger", appauthor=False)


def user_config_folder() -> Path:
    """The platform's configuration folder of this program (not created)."""
    import platformdirs

    return platformdirs.user_config_path("musictagger", appauthor=False)

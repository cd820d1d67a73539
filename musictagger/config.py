"""Settings: defaults < config.toml in the user's configuration folder < MUSICTAGGER_* < command-line flags."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin

from msgspec import Meta

from musictagger.audio.frames import FrameRule
from musictagger.audio.frontend import FrontEnd
from musictagger.errors import BadRequestError, hint
from musictagger.paths import read_toml, user_config_folder, user_data_folder
from musictagger.records import Aggregator, MergeMode
from musictagger.values import MAX, Count, Share, check, convert, field_types

PREFIX = "MUSICTAGGER_"


@dataclass(frozen=True)
class Settings:
    """Every setting, with its default. Names are those of the flags, with `_` for `-`."""

    data_dir: Path = dataclasses.field(default_factory=user_data_folder)
    db: str = ""
    model: str = ""
    plugin_dir: tuple[Path, ...] = ()
    device: str = "auto"
    batch_size: Count | None = None
    workers: Count | None = None
    decode_timeout: Annotated[float, Meta(gt=0)] = 120.0
    trim_edges: Annotated[float, Meta(ge=0, le=MAX)] = 5.0
    frames: Count | None = None
    write: MergeMode = "fill"
    moods: bool = False
    provenance: bool = False
    preserve_mtime: bool = False
    break_hardlinks: bool = False
    id3v23_join: str = "; "
    max_genres: Count = 2
    keep_parents: bool = False
    genres_allow: Path | None = None
    genres_file: Path | None = None
    min_score: Share | None = None
    aggregate: Aggregator = "mean"

    def __post_init__(self) -> None:
        """Raises BadRequestError for a value out of range."""
        check(self)
        if not self.id3v23_join.strip() or not self.id3v23_join.isprintable():
            raise BadRequestError(
                f"id3v23_join must have a visible character and no control characters, not {self.id3v23_join!r}"
            )

    @property
    def db_location(self) -> str:
        """Path or SQLAlchemy URL of the database."""
        return self.db or str(self.data_dir / "library.db")

    @property
    def journal_file(self) -> Path:
        """The journal of tag changes in files: a database of its own, so that the library can be deleted without it."""
        return self.data_dir / "journal.db"

    @property
    def model_folders(self) -> list[Path]:
        """The folders of the user's own and pulled models."""
        return [self.data_dir / "models"]

    @property
    def plugin_folders(self) -> list[Path]:
        """The folders of the user's own backbones."""
        return [self.data_dir / "plugins", *self.plugin_dir]


def frame_rule(front_end: FrontEnd, settings: Settings) -> FrameRule:
    """The slicing by the settings, in samples at the front end's rate."""
    return FrameRule(front_end.frame_samples, round(settings.trim_edges * front_end.sample_rate_hz), settings.frames)


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from all sources. `flags` with value None were not given.

    Raises BadRequestError, naming the source, for an unknown key (with a suggestion), a value of the wrong type or out
    of range, and a configuration file or genres file that the user names but that does not exist.
    """
    environment = os.environ if environment is None else environment
    named = environment.get(PREFIX + "CONFIG")
    file = Path(named) if named else user_config_folder() / "config.toml"
    values = _from_file(file, must_exist=bool(named)) | _from_environment(environment)
    given = {name: value for name, value in (flags or {}).items() if value is not None and value != ()}
    values |= dict(_setting(name, value, "settings", name.replace("_", "-")) for name, value in given.items())
    if "genres_file" in values and not values["genres_file"].exists():
        raise BadRequestError(f"{values['genres_file']}: the file that genres_file names does not exist")
    return Settings(**{"genres_file": file.parent / "genres.toml", **values})


def _from_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        content = read_toml(path)
    except FileNotFoundError:
        if must_exist:
            raise BadRequestError(f"{path}: the file that {PREFIX}CONFIG names does not exist") from None
        return {}
    return dict(_setting(name, value, path, f"{path}: {name}") for name, value in content.items())


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    given = {name: text for name, text in environment.items() if name.startswith(PREFIX) and text}
    given.pop(PREFIX + "CONFIG", None)
    return dict(_setting(name[len(PREFIX) :].lower(), text, name, name, from_text=True) for name, text in given.items())


def _setting(name: str, value: Any, source: object, what: str, *, from_text: bool = False) -> tuple[str, Any]:
    """The field of Settings that `name` means, where hyphens may stand for underscores, and its value."""
    field, kinds = name.replace("-", "_"), field_types(Settings)
    if field not in kinds:
        known = hint(field, kinds) or f"; known settings: {', '.join(kinds)}"
        raise BadRequestError(f"{source}: unknown setting {name!r}{known}")
    if from_text and get_origin(kinds[field]) is tuple:
        value = value.split(os.pathsep)
    return field, convert(value, kinds[field], what, lenient=from_text)

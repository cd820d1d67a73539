"""Settings: defaults < config.toml in the user's configuration folder < MUSICTAGGER_* < command-line flags."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from musictagger.audio.frames import FrameRule
from musictagger.audio.frontend import FrontEnd
from musictagger.errors import BadRequestError, hint
from musictagger.paths import read_toml, user_config_folder, user_data_folder
from musictagger.records import Aggregator, MergeMode

PREFIX = "MUSICTAGGER_"


@dataclass(frozen=True)
class Settings:
    """Every setting, with its default. Names are those of the flags, with `_` for `-`."""

    data_dir: Path = dataclasses.field(default_factory=user_data_folder)
    db: str = ""
    model: str = ""
    plugin_dir: tuple[Path, ...] = ()
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    decode_timeout: float = 120.0
    trim_edges: float = 5.0
    frames: int | None = None
    write: MergeMode = "fill"
    moods: bool = False
    provenance: bool = False
    preserve_mtime: bool = False
    break_hardlinks: bool = False
    id3v23_join: str = "; "
    max_genres: int = 2
    keep_parents: bool = False
    genres_allow: Path | None = None
    genres_file: Path | None = None
    min_score: float | None = None
    aggregate: Aggregator = "mean"

    def __post_init__(self) -> None:
        """Raises BadRequestError for a value out of range."""
        _require(self.batch_size is None or self.batch_size >= 1, "batch-size must be at least 1")
        _require(self.workers is None or self.workers >= 1, "workers must be at least 1")
        _require(self.decode_timeout > 0, "decode-timeout must be more than 0 seconds")
        _require(0 <= self.trim_edges < math.inf, "trim-edges must be 0 seconds or more")
        _require(self.frames is None or self.frames >= 1, "frames must be at least 1")
        join = self.id3v23_join
        _require(bool(join.strip()) and join.isprintable(), "id3v23-join must hold a visible character")
        _require(self.max_genres >= 1, "max-genres must be at least 1")
        _require(self.min_score is None or 0 <= self.min_score <= 1, "min-score must lie between 0 and 1")

    @property
    def db_location(self) -> str:
        """Path or SQLAlchemy URL of the database."""
        return self.db or str(self.data_dir / "library.db")

    @property
    def journal_file(self) -> Path:
        """The journal of what was written into files; apart from the library, which may be thrown away."""
        return self.data_dir / "journal.db"

    @property
    def model_folders(self) -> list[Path]:
        """Where the user's own and pulled models lie."""
        return [self.data_dir / "models"]

    @property
    def plugin_folders(self) -> list[Path]:
        """Where the user's own backbones lie."""
        return [self.data_dir / "plugins", *self.plugin_dir]


def frame_rule(front_end: FrontEnd, settings: Settings) -> FrameRule:
    """The slicing that the settings ask for, in samples at the front end's rate."""
    return FrameRule(front_end.frame_samples, round(settings.trim_edges * front_end.sample_rate_hz), settings.frames)


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from all sources. `flags` with value None were not given.

    Raises BadRequestError, naming the source, for an unknown key (with a suggestion), a value of the wrong kind, or a
    configuration file or genres file that somebody named and that is not there.
    """
    environment = os.environ if environment is None else environment
    named = environment.get(PREFIX + "CONFIG")
    file = Path(named) if named else user_config_folder() / "config.toml"
    values = _from_file(file, must_exist=bool(named)) | _from_environment(environment)
    for name, value in (flags or {}).items():
        if value is not None and value != ():
            known = _known(name, "settings")
            values[known] = _converted(known, value, "settings")
    if "genres_file" in values:
        _require(values["genres_file"].exists(), f"{values['genres_file']}: there is no such genres_file")
    return Settings(**{"genres_file": file.parent / "genres.toml", **values})


def _from_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        content = read_toml(path)
    except FileNotFoundError:
        _require(not must_exist, f"{path}: there is no such configuration file ({PREFIX}CONFIG names it)")
        return {}
    return {_known(name, path): _converted(name, value, path) for name, value in content.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value}
    given.pop(PREFIX + "CONFIG", None)
    return {
        _known(name[len(PREFIX) :].lower(), name): _parsed(name[len(PREFIX) :].lower(), value, name)
        for name, value in given.items()
    }


def _known(name: str, source: object) -> str:
    plain = name.replace("-", "_")
    names = [field.name for field in dataclasses.fields(Settings)]
    if plain not in names:
        known = hint(plain, names) or f"; known are: {', '.join(names)}"
        raise BadRequestError(f"{source}: unknown setting {name!r}{known}")
    return plain


def _kinds(name: str) -> tuple[Any, ...]:
    """The types a setting takes, without None: `int | None` -> (int,), a Literal -> its words."""
    hint = typing.get_type_hints(Settings)[name.replace("-", "_")]
    if isinstance(hint, types.UnionType):
        return tuple(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else (hint,)


def _converted(name: str, value: Any, source: object) -> Any:
    """A TOML value, or one that has the setting's type already, as the setting's type."""
    kinds = _kinds(name)
    if isinstance(kinds[0], str):
        if value in kinds:
            return value
        raise BadRequestError(f"{source}: {name} must be one of {', '.join(kinds)}, not {value!r}")
    if kinds[0] is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    folders = isinstance(value, (list, tuple)) and all(isinstance(folder, (str, Path)) for folder in value)
    if typing.get_origin(kinds[0]) is tuple and folders:
        return tuple(Path(folder).expanduser() for folder in value)
    if kinds[0] is float and type(value) is int:
        return float(value)
    if isinstance(kinds[0], type) and type(value) is kinds[0]:
        return value
    raise BadRequestError(f"{source}: {name} cannot be {value!r}")


def _parsed(name: str, text: str, source: str) -> Any:
    """The text of an environment variable as the setting's type."""
    kind = _kinds(_known(name, source))[0]
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
    except (ValueError, KeyError):
        raise BadRequestError(f"{source}: cannot be {text!r}") from None
    if typing.get_origin(kind) is tuple:
        return tuple(Path(folder).expanduser() for folder in text.split(os.pathsep))
    return _converted(name, text, source)


def _require(fine: bool, message: str) -> None:
    if not fine:
        raise BadRequestError(message)

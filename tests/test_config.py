"""Settings: the precedence of their sources, and the messages for invalid values."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictagger.audio.frames import FrameRule
from musictagger.audio.frontend import FrontEnd
from musictagger.config import Settings, frame_rule, load_settings
from musictagger.errors import BadRequestError


def load(tmp_path: Path, toml: str = "", flags: dict[str, Any] | None = None, /, **environment: str) -> Settings:
    """Settings from a file with `toml`, from MUSICTAGGER_* and from flags."""
    file = tmp_path / "config.toml"
    file.write_text(toml, encoding="utf-8")
    named = {f"MUSICTAGGER_{name}": value for name, value in environment.items()}
    return load_settings(flags, {"MUSICTAGGER_CONFIG": str(file), **named})


def test_defaults_without_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musictagger.config.user_config_folder", lambda: tmp_path)
    settings = load_settings({}, {"MUSICTAGGER_CONFIG": ""})
    assert settings == Settings(genres_file=tmp_path / "genres.toml")
    assert (settings.decode_timeout, settings.trim_edges, settings.write, settings.aggregate) == (
        120,
        5,
        "fill",
        "mean",
    )
    assert settings.db_location == str(settings.data_dir / "library.db")
    assert (settings.max_genres, settings.min_score, settings.device) == (2, None, "auto")


def test_flags_override_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    toml = 'device = "mps"\nworkers = 1\nwrite = "none"\n'
    settings = load(tmp_path, toml, {"device": "cpu", "workers": None}, DEVICE="cuda", WORKERS="7")
    assert (settings.device, settings.workers, settings.write) == ("cpu", 7, "none")


def test_an_omitted_flag_changes_nothing(tmp_path: Path) -> None:
    settings = load(tmp_path, 'plugin_dir = ["/a"]', {"plugin_dir": (), "frames": None, "preserve_mtime": None})
    assert settings.plugin_dir == (Path("/a"),)
    assert settings.preserve_mtime is False


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    assert load(tmp_path, "workers = 3", WORKERS="").workers == 3


def test_names_may_contain_hyphens(tmp_path: Path) -> None:
    assert load(tmp_path, "trim-edges = 2.5\npreserve-mtime = true").trim_edges == 2.5


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("workers = 5")
    assert load_settings({}, {"MUSICTAGGER_CONFIG": str(file)}).workers == 5


def test_a_file_named_by_the_user_must_exist(tmp_path: Path) -> None:
    """Otherwise a misspelt path would write tags although the file forbids it."""
    gone = tmp_path / "gone.toml"
    with pytest.raises(BadRequestError, match=r"gone\.toml: the file that MUSICTAGGER_CONFIG names does not exist"):
        load_settings({}, {"MUSICTAGGER_CONFIG": str(gone)})
    with pytest.raises(BadRequestError, match=r"gone\.toml: the file that genres_file names does not exist"):
        load(tmp_path, GENRES_FILE=str(gone))
    with pytest.raises(BadRequestError, match=r"gone\.toml: the file that genres_file names does not exist"):
        load(tmp_path, f"genres_file = '{gone}'")
    gone.touch()
    assert load(tmp_path, GENRES_FILE=str(gone)).genres_file == gone


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("WORKERS", "4", 4), ("DECODE_TIMEOUT", "1.5", 1.5), ("TRIM_EDGES", "0", 0.0), ("FRAMES", "3", 3),
        ("MIN_SCORE", "0.25", 0.25), ("PRESERVE_MTIME", "yes", True), ("PRESERVE_MTIME", "0", False),
        ("PRESERVE_MTIME", "TRUE", True), ("WRITE", "append", "append"), ("AGGREGATE", "max", "max"),
        ("DB", "sqlite:///x.db", "sqlite:///x.db"), ("DATA_DIR", "/data", Path("/data")),
        ("PLUGIN_DIR", f"/a{os.pathsep}/b", (Path("/a"), Path("/b"))), ("BATCH_SIZE", "16", 16),
    ],
)  # fmt: skip
def test_environment_variables_are_converted(name: str, text: str, value: object, tmp_path: Path) -> None:
    assert getattr(load(tmp_path, **{name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("toml", "name", "value"),
    [
        ("decode_timeout = 60", "decode_timeout", 60.0),
        ('data_dir = "~/music-data"', "data_dir", Path("~/music-data").expanduser()),
        ('plugin_dir = ["~/a", "/b"]', "plugin_dir", (Path("~/a").expanduser(), Path("/b"))),
        ("preserve_mtime = true", "preserve_mtime", True),
        ('db = "/x.db"', "db", "/x.db"),
        ("min_score = 1", "min_score", 1.0),
    ],
)
def test_values_from_the_file_are_converted(toml: str, name: str, value: object, tmp_path: Path) -> None:
    assert getattr(load(tmp_path, toml), name) == value


@pytest.mark.parametrize(
    ("toml", "environment", "message"),
    [
        ("wrokers = 3", {}, r"config\.toml: unknown setting 'wrokers'; did you mean 'workers'"),
        ("[scan]\nworkers = 3", {}, r"unknown setting 'scan'"),
        ("xyzzy = 3", {}, "unknown setting 'xyzzy'; known settings: data_dir, "),
        ("", {"TRIMEDGES": "3"}, "MUSICTAGGER_TRIMEDGES: unknown setting 'trimedges'; did you mean 'trim_edges'"),
        ("", {"XYZZY": "3"}, "MUSICTAGGER_XYZZY: unknown setting"),
        ('workers = "two"', {}, r"config\.toml: workers must be a whole number of at least 1, not 'two'"),
        ("workers = 2.5", {}, "workers must be a whole number of at least 1, not 2.5"),
        ("workers = true", {}, "workers must be a whole number of at least 1, not True"),
        ("preserve_mtime = 1", {}, "preserve_mtime must be true or false, not 1"),
        ('plugin_dir = "/a"', {}, "plugin_dir must be a list of paths, not '/a'"),
        ("plugin_dir = [3]", {}, r"plugin_dir\[0\] must be a path, not 3"),
        ("device = 3", {}, "device must be a string, not 3"),
        ('write = "overwrite"', {}, "write must be one of fill, append, replace, none, not 'overwrite'"),
        ("write = [1]", {}, "write must be one of"),
        ("workers = ", {}, r"config\.toml: cannot be read as TOML"),
        ("", {"WORKERS": "two"}, "MUSICTAGGER_WORKERS must be a whole number of at least 1 or none, not 'two'"),
        ("", {"WORKERS": "0"}, "MUSICTAGGER_WORKERS must be a whole number of at least 1 or none, not '0'"),
        ("", {"MIN_SCORE": "nan"}, "MUSICTAGGER_MIN_SCORE must be a number from 0 to 1 or none, not 'nan'"),
        ("", {"DATA_DIR": "~nobody-of-this-name/x"}, "MUSICTAGGER_DATA_DIR must be a path, not '~nobody-of"),
        ("", {"PRESERVE_MTIME": "maybe"}, "MUSICTAGGER_PRESERVE_MTIME must be true or false, not 'maybe'"),
        ("", {"AGGREGATE": "sum"}, "MUSICTAGGER_AGGREGATE must be one of mean, median, geometric, max, not 'sum'"),
    ],
)
def test_invalid_values_are_reported_with_their_source(
    toml: str, environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRequestError, match=message):
        load(tmp_path, toml, **environment)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", 0), ("batch_size", 0), ("decode_timeout", 0.0), ("decode_timeout", -1.0), ("trim_edges", -0.1),
        ("frames", 0), ("max_genres", 0), ("min_score", 1.1), ("min_score", -0.1), ("min_score", float("nan")),
        ("trim_edges", float("nan")), ("trim_edges", float("inf")), ("decode_timeout", float("nan")),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(BadRequestError, match=f"^{name} must be "):
        Settings(**{name: value})  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Settings)]), st.text(max_size=8)))
def test_any_environment_is_accepted_or_refused(values: dict[str, str]) -> None:
    environment = {f"MUSICTAGGER_{name.upper()}": text for name, text in values.items()}
    try:
        load_settings({}, {**environment, "MUSICTAGGER_CONFIG": os.devnull})
    except BadRequestError as error:
        assert str(error)


def test_a_config_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadRequestError, match="cannot be read as TOML"):
        load_settings({}, {"MUSICTAGGER_CONFIG": str(tmp_path / "config.toml")})
    with pytest.raises(BadRequestError, match="cannot be read: Is a directory"):
        load_settings({}, {"MUSICTAGGER_CONFIG": str(tmp_path)})


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("max_genres = 3", encoding="utf-8-sig")
    assert load_settings({}, {"MUSICTAGGER_CONFIG": str(tmp_path / "config.toml")}).max_genres == 3


def test_the_frame_rule_counts_samples() -> None:
    assert frame_rule(FrontEnd(), Settings()) == FrameRule(349_440, 60_000)
    rule = frame_rule(FrontEnd(sample_rate_hz=16_000, frame_hops=1820), Settings(trim_edges=0.5, frames=3))
    assert rule == FrameRule(465_920, 8_000, 3)


def test_folders_are_inside_the_data_folder() -> None:
    settings = Settings(data_dir=Path("/d"), plugin_dir=(Path("/p"),), db="x.db")
    assert settings.db_location == "x.db"
    assert settings.model_folders == [Path("/d/models")]
    assert settings.plugin_folders == [Path("/d/plugins"), Path("/p")]

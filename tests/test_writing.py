"""Plan, apply, undo, fix and review, on real files through the command line."""

from __future__ import annotations

import json
import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import media
import mutagen
import mutagen.id3
import pytest
from helpers import TINY, make_model, run, write_tone

from musictagger.audio.digest import audio_digest
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USAGE
from musictagger.tags.containers.systems import FIELDS
from musictagger.tags.fields import read_fields, snapshot


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = tmp_path / "data"
    make_model(data / "models")
    for name, value in {
        "DATA_DIR": str(data), "CONFIG": os.devnull, "MODEL": TINY, "DEVICE": "cpu", "WRITE": "fill"
    }.items():  # fmt: skip
        monkeypatch.setenv(f"MUSICTAGGER_{name}", value)
    return data


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Three scanned tracks, nothing written yet; the second has a genre, artist and album."""
    folder = tmp_path / "music"
    for name, hz in (("a.flac", 110), ("b.flac", 440), ("c.ogg", 880)):
        write_tone(folder / name, 31, hz)
    tags = mutagen.File(folder / "b.flac")
    tags["genre"], tags["artist"], tags["album"] = ["Polka", "polka "], ["Anna"], ["First"]
    tags.save()
    assert run("scan", folder, "--write", "none", "--quiet").code == 0
    return folder


def genres(path: Path) -> list[str]:
    return list((mutagen.File(path).tags or {}).get("genre", []))


def state(folder: Path) -> dict[Path, Any]:
    """Everything that an undo must restore: values of our fields, a fingerprint of all else, and of the audio."""
    return {
        path: (read_fields(path, FIELDS), snapshot(path), audio_digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_plan_shows_changes_and_reasons_and_opens_no_file(music: Path) -> None:
    before = {path: path.read_bytes() for path in music.iterdir()}
    for path in music.iterdir():
        path.chmod(0)
    plan = run("plan", "--json").json
    assert plan["schema"] == "musictagger.plan/1"
    files = {Path(file["path"]).name: file for file in plan["files"]}
    assert set(files) == {"a.flac", "c.ogg"}
    [change] = files["a.flac"]["changes"]
    assert (change["field"], change["before"]) == ("genre", [])
    assert set(change["after"]) == {"Rock", "Jazz"}
    assert all(f"{name} 0." in change["why"] or f"{name} 1." in change["why"] for name in change["after"])
    for path in music.iterdir():
        path.chmod(0o644)
    assert {path: path.read_bytes() for path in music.iterdir()} == before
    assert "2 files would change" in run("plan").out
    assert "0 files would change" in run("plan", "path:b.flac").out


def test_undo_restores_everything_that_apply_changed(music: Path) -> None:
    before = state(music)
    applied = run("apply", "--write", "append", "--moods", "--provenance", "--json").json
    assert len(applied["written"]) == 3
    assert genres(music / "b.flac")[:2] == ["Polka", "polka "]
    assert json.loads(mutagen.File(music / "a.flac")["musictagger"][0])["model"] == TINY
    assert mutagen.File(music / "a.flac")["mood"] == ["Mellow"]
    assert run("undo", "--last").out.startswith("3 restored, 0 refused")
    assert state(music) == before
    assert run("undo", "--last").code == EXIT_USAGE, "nothing is left to undo"


def test_undo_of_a_scan_and_of_the_undo(music: Path) -> None:
    before = state(music)
    assert run("scan", music, "--quiet").code == 0
    after = state(music)
    assert after != before
    runs = run("history", "--json").json["runs"]
    assert [(entry["kind"], entry["counts"]["written"]) for entry in runs] == [("scan", 2)]
    assert run("undo", "--run", runs[0]["id"]).code == 0
    assert state(music) == before
    newest = run("history", "--json").json["runs"][0]
    assert newest["kind"] == "undo"
    assert run("undo", "--run", newest["id"]).code == 0
    assert state(music) == after


def test_undo_by_path_restores_the_first_state(music: Path) -> None:
    before = state(music)
    assert run("apply", "--write", "append").code == 0
    assert run("apply", "--write", "replace", "--max-genres", "1").code == 0
    assert genres(music / "b.flac") != ["Polka", "polka "]
    assert run("undo", music / "b.flac").code == 0
    assert genres(music / "b.flac") == ["Polka", "polka "]
    assert run("undo", music).code == 0
    assert state(music) == before


def test_scan_after_apply_or_undo_sees_no_change(music: Path) -> None:
    run("apply")
    assert run("scan", music, "--json").json["summary"]["unchanged"] == 3
    run("undo", "--last")
    assert run("scan", music, "--write", "none", "--json").json["summary"]["unchanged"] == 3


def test_a_file_changed_since_the_plan_is_refused_and_the_rest_is_written(music: Path, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    run("plan", "--out", saved)
    tags = mutagen.File(music / "a.flac")
    tags["title"] = ["changed"]
    tags.save()
    result = run("apply", saved)
    assert result.code == EXIT_SOME_FAILED
    assert str(music / "a.flac") in result.err and "changed since" in result.err
    assert genres(music / "a.flac") == []
    assert set(genres(music / "c.ogg")) == {"Rock", "Jazz"}


def test_undo_refuses_fields_that_were_changed_since(music: Path) -> None:
    run("apply")
    tags = mutagen.File(music / "a.flac")
    tags["genre"] = ["Mine"]
    tags.save()
    result = run("undo", "--last")
    assert result.code == EXIT_SOME_FAILED
    assert genres(music / "a.flac") == ["Mine"]
    assert genres(music / "c.ogg") == []


def test_undo_finds_a_file_that_was_moved(music: Path) -> None:
    run("apply")
    (music / "sub").mkdir()
    (music / "a.flac").rename(music / "sub" / "moved.flac")
    run("scan", music, "--write", "none", "--quiet")
    assert run("undo", "--last").code == 0
    assert genres(music / "sub" / "moved.flac") == []


def test_the_journal_works_after_the_library_is_deleted(music: Path, home: Path) -> None:
    before = state(music)
    run("apply")
    for path in home.glob("library.db*"):
        path.unlink()
    assert run("undo", "--last").code == 0
    assert state(music) == before


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"schema": "musictagger.plan/2"}', '{"schema": "musictagger.plan/1"}']
)
def test_a_damaged_plan_is_a_usage_error(music: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    result = run("apply", tmp_path / "plan.json")
    assert result.code == EXIT_USAGE
    assert "plan.json" in result.err and result.err.count("\n") == 1


def test_hard_links_are_refused_unless_allowed(music: Path) -> None:
    os.link(music / "a.flac", music.parent / "other-name.flac")
    result = run("apply", "path:a.flac")
    assert result.code == EXIT_SOME_FAILED
    assert "--break-hardlinks" in result.err
    assert genres(music / "a.flac") == []
    assert run("apply", "path:a.flac", "--break-hardlinks").code == 0
    assert genres(music / "a.flac") and not genres(music.parent / "other-name.flac")


def test_mtime_is_kept_when_asked_for(music: Path) -> None:
    before_ns = (music / "a.flac").stat().st_mtime_ns
    run("apply", "--preserve-mtime")
    assert (music / "a.flac").stat().st_mtime_ns == before_ns
    assert run("scan", music, "--json").json["summary"]["unchanged"] == 3


def test_a_fixed_genre_survives_scans_models_and_renaming(music: Path, home: Path) -> None:
    assert run("fix", music / "a.flac", "--genre", "Zydeco").code == 0
    assert genres(music / "a.flac") == ["Zydeco"]
    make_model(home / "models", "other", seed=3)
    (music / "a.flac").rename(music / "z.flac")
    for arguments in (["--force"], ["--model", "other"], ["--model", "other", "--force"]):
        assert run("scan", music, "--write", "replace", "--quiet", *arguments).code == 0
        assert genres(music / "z.flac") == ["Zydeco"]
    assert run("show", music / "z.flac", "--json").json["genres"] == ["Zydeco"]
    assert run("fix", music / "z.flac", "--forget").code == 0
    run("apply", "--write", "replace")
    assert genres(music / "z.flac") != ["Zydeco"]


def test_not_this_genre_and_lock(music: Path) -> None:
    assert run("fix", music / "a.flac", "--not", "rock").code == 0
    assert run("fix", music / "c.ogg", "--lock").code == 0
    assert run("apply", "--write", "replace").code == 0
    assert genres(music / "a.flac") == ["Jazz"]
    assert genres(music / "c.ogg") == []
    assert run("fix", music / "c.ogg", "--unlock").code == 0
    run("apply")
    assert genres(music / "c.ogg")


def test_fix_needs_a_decision_and_a_known_file(music: Path, tmp_path: Path) -> None:
    assert run("fix", music / "a.flac").code == EXIT_USAGE
    assert "is not in the library" in run("fix", tmp_path / "x.mp3", "--lock").err


def test_review_accepts_skips_edits_and_keeps_decisions(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tone(music / "d.flac", 31, 1200)
    run("scan", music, "--write", "none", "--quiet")
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("s\ne\nKlezmer; Waltz\nq\n"))
    result = run("review")
    assert result.code == 0, result.err
    assert genres(music / "a.flac") == []
    assert genres(music / "c.ogg") == ["Klezmer", "Waltz"]
    assert genres(music / "d.flac") == []
    run("apply", "--write", "replace")
    assert genres(music / "c.ogg") == ["Klezmer", "Waltz"], "an edited genre is the user's own choice"


def test_review_accepts_a_whole_album_and_saves_a_plan(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, album in (("a.flac", "X"), ("b.flac", "X"), ("c.ogg", "Y")):
        tags = mutagen.File(music / name)
        tags["artist"], tags["album"] = ["Anna"], [album]
        tags.save()
    run("scan", music, "--write", "none", "--quiet")
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("l\n"))
    saved = tmp_path / "reviewed.json"
    assert "2 of 3 accepted" in run("review", "--write", "append", "--out", saved).out
    assert genres(music / "a.flac") == []
    assert [Path(file["path"]).name for file in json.loads(saved.read_text())["files"]] == ["a.flac", "b.flac"]


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_every_container_is_written_and_restored(container: str, tmp_path: Path) -> None:
    """After scan, apply and undo, the tags, all else and the audio are the same as before."""
    if container in media.MADE_UP:
        pytest.skip("no encoder makes a decodable one here")
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(media.make(container, tmp_path, seconds=3), folder)
    [path] = folder.iterdir()
    before = state(folder)
    assert run("scan", folder, "--moods", "--provenance", "--quiet").code == 0
    after = read_fields(path, FIELDS)
    assert all(after.values())
    assert audio_digest(path) == before[path][2]
    assert snapshot(path) == before[path][1]
    assert run("undo", "--last").code == 0
    assert state(folder) == before


def test_files_that_cannot_hold_tags_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(media.make("matroska", tmp_path, seconds=3), folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run("scan", folder)
    assert result.code == 0, result.err
    assert "1 left alone: Matroska" in result.out
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert run("plan", "--json").json["files"] == []


@pytest.fixture
def old_id3(tmp_path: Path) -> Path:
    """A scanned MP3 with ID3v2.3, whose frames hold one value."""
    folder = tmp_path / "old"
    folder.mkdir()
    path = folder / "old.mp3"
    shutil.copy(media.make("mp3", tmp_path, seconds=3), path)
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TPE1(encoding=3, text=["Anna"]))
    tags.save(path, v2_version=3)
    assert run("scan", folder, "--write", "none", "--quiet").code == 0
    return path


@pytest.mark.parametrize("mode", ["append", "replace"])
@pytest.mark.parametrize("join", ["; ", " / "])
def test_joined_values_are_recognised(old_id3: Path, mode: str, join: str) -> None:
    options = ("--write", mode, "--id3v23-join", join)
    assert run("scan", old_id3.parent, *options, "--json").json["summary"]["written"] == 1
    [value] = read_fields(old_id3, FIELDS)["genre"]
    assert sorted(value.split(join)) == ["Jazz", "Rock"]
    for _ in range(2):
        assert run("plan", *options, "--json").json["files"] == []
        assert run("scan", old_id3.parent, *options, "--json").json["summary"]["written"] == 0
    assert read_fields(old_id3, FIELDS)["genre"] == (value,)


def test_undo_and_redo_repeatedly(music: Path) -> None:
    before = state(music)
    run("apply")
    after = state(music)
    for _ in range(2):
        assert run("undo", "--last").code == 0
        assert state(music) == before
        redo = run("history", "--json").json["runs"][0]["id"]
        assert run("undo", "--run", redo).code == 0
        assert state(music) == after
    assert run("undo", "--last").code == 0
    assert state(music) == before


def test_undo_of_nothing_is_reported(music: Path, tmp_path: Path) -> None:
    for arguments in (["--last"], [tmp_path / "nowhere.mp3"], [music / "a.flac"]):
        result = run("undo", *arguments)
        assert (result.code, "nothing to undo" in result.err) == (EXIT_USAGE, True)


def test_undo_by_the_new_path_of_a_moved_file(music: Path) -> None:
    run("apply")
    (music / "a.flac").rename(music / "moved.flac")
    run("scan", music, "--write", "none", "--quiet")
    assert run("undo", music / "moved.flac").code == 0
    assert genres(music / "moved.flac") == []


def test_a_lock_stops_a_plan_made_before(music: Path, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    run("plan", "--out", saved)
    run("fix", music / "a.flac", "--lock")
    result = run("apply", saved)
    assert result.code == EXIT_SOME_FAILED
    assert "locked" in result.err
    assert genres(music / "a.flac") == [] and genres(music / "c.ogg")


def test_a_link_and_its_target_are_one_write(music: Path) -> None:
    (music / "link.flac").symlink_to(music / "a.flac")
    result = run("scan", music, "--json")
    assert result.code == 0, result.err
    assert result.json["summary"]["written"] == 2
    assert (music / "link.flac").is_symlink()
    assert run("scan", music, "--json").json["summary"]["written"] == 0


def test_the_end_of_the_input_keeps_the_decisions(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("a\ne\n;\n"))
    result = run("review")
    assert result.code == 0, result.err
    assert genres(music / "a.flac")
    assert genres(music / "c.ogg") == []


@pytest.mark.parametrize("command", ["apply", "review"])
@pytest.mark.parametrize("flags", [["--write", "replace"], ["--min-score", "0.2"], ["--moods"], ["--model", TINY]])
def test_a_saved_plan_refuses_flags_that_decide_its_content(
    command: str, flags: list[str], music: Path, tmp_path: Path
) -> None:
    before = state(music)
    assert run("plan", "--out", tmp_path / "plan.json").code == 0
    result = run(command, tmp_path / "plan.json", *flags)
    assert result.code == EXIT_USAGE
    assert f"without {flags[0]}" in result.err
    assert state(music) == before
    assert run("apply", tmp_path / "plan.json", "--preserve-mtime").code == 0


@pytest.mark.parametrize(
    "command",
    [
        "undo --last",
        "apply",
        "apply PLAN",
        "review PLAN",
        "plan",
        "query",
        "tags",
        "failed",
        "show MUSIC",
        "fix MUSIC --lock",
    ],
)
def test_a_missing_library_is_named_and_not_created(command: str, music: Path, tmp_path: Path) -> None:
    run("plan", "--out", tmp_path / "plan.json")
    places = {"PLAN": tmp_path / "plan.json", "MUSIC": music / "a.flac"}
    typo = tmp_path / "typo" / "libary.db"
    result = run(*(places.get(word, word) for word in command.split()), "--db", typo)
    assert result.code == 1
    assert f"{typo}: there is no database yet" in result.err
    assert "--db" in result.err
    assert not typo.parent.exists()


@pytest.mark.parametrize("name", ["", "  ", "Ja\x1bzz", "Ja\nzz"])
@pytest.mark.parametrize("flag", ["--genre", "--not"])
def test_an_invisible_genre_is_refused(flag: str, name: str, music: Path) -> None:
    before = state(music)
    assert run("fix", music / "a.flac", flag, name).code == EXIT_USAGE
    assert state(music) == before


def test_after_a_kill_the_library_matches_the_files(music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after the file was replaced and before the library was updated, in an apply and in its undo."""
    before = state(music)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for command in (["apply"], ["undo", "--last"]):
        with monkeypatch.context() as patch:
            patch.setattr("musictagger.tags.journal.Journal.settle", killed)
            assert run(*command).code == EXIT_INTERRUPTED
        # The next command settles what was left, but may have made its plan before.
        assert run(*command).code in {0, EXIT_SOME_FAILED}
    run("undo", music)
    assert state(music) == before
    assert len(run("plan", "--json").json["files"]) == 2
    assert run("scan", music, "--write", "none", "--json").json["summary"]["unchanged"] == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("path", path) for path in ("a.flac", "~/a.flac", "", "/x\0y", "/\ud800", 5, None)],
        *[("size", size) for size in (float("inf"), float("nan"), 1.5, True, "9", "many", None)],
        *[("audio_digest", digest) for digest in (5, ["x"])],
        *product(["changes"], ([], {}, "genre", [{}], [{"field": "title"}], [{"field": ["genre"]}])),
    ],
)
def test_a_plan_with_an_invalid_field_is_a_usage_error(key: str, value: object, music: Path, tmp_path: Path) -> None:
    before = state(music)
    run("plan", "--out", tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    document["files"][0][key] = value
    (tmp_path / "plan.json").write_text(json.dumps(document))
    result = run("apply", tmp_path / "plan.json")
    assert result.code == EXIT_USAGE
    assert "plan.json: not a complete plan" in result.err
    assert state(music) == before


@pytest.mark.parametrize("values", [["\ud800"], "Jazz", None, [5]])
def test_a_plan_with_values_that_are_not_strings_is_a_usage_error(values: object, music: Path, tmp_path: Path) -> None:
    run("plan", "--out", tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    document["files"][0]["changes"][0]["after"] = values
    (tmp_path / "plan.json").write_text(json.dumps(document))
    assert run("apply", tmp_path / "plan.json").code == EXIT_USAGE
    (tmp_path / "plan.json").write_text("[" * 200_000)
    assert "plan.json: is not a plan: it is nested too deeply" in run("apply", tmp_path / "plan.json").err


def test_history_can_be_read_from_a_read_only_drive(music: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("apply")
    expected = run("history", "--json").json
    can = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and can(path, mode))
    # On a read-only drive nobody is writing, so there are no files of SQLite beside it.
    assert not list(home.glob("journal.db-wal"))
    assert run("history", "--json").json == expected
    (home / "journal.db").unlink()
    assert run("history").code == EXIT_USAGE
    assert not (home / "journal.db").exists()

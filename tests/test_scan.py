"""The whole pipeline on real files, with a small model."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from helpers import TINY, contents, make_model, run, write_tone

from musictagger.cli.options import opened_writer
from musictagger.config import load_settings
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USAGE
from musictagger.models.inference import load_predictor
from musictagger.pipeline.scan import Scan, ScanOptions, ScanReport
from musictagger.progress import Progress
from musictagger.tags import safewrite

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh user: a data folder with the small model, no configuration."""
    data = tmp_path / "data"
    make_model(data / "models")
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(data))
    monkeypatch.setenv("MUSICTAGGER_CONFIG", os.devnull)
    monkeypatch.setenv("MUSICTAGGER_MODEL", TINY)
    monkeypatch.setenv("MUSICTAGGER_DEVICE", "cpu")
    return data


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Four tracks: two flac (one of them with a genre), an ogg in a folder, and a short wav."""
    folder = tmp_path / "music"
    write_tone(folder / "a.flac", 70, 110)
    write_tone(folder / "b.flac", 45, 330)
    write_tone(folder / "sub" / "c.ogg", 35, 550)
    write_tone(folder / "short.flac", 3, 770)
    tags = mutagen.File(folder / "b.flac")
    tags["genre"], tags["artist"], tags["title"] = ["Polka"], ["Anna"], ["Bee"]
    tags.save()
    return folder


def genres(path: Path) -> list[str]:
    return list((mutagen.File(path).tags or {}).get("genre", []))


def scan(*arguments: object) -> dict[str, Any]:
    result = run("scan", *arguments, "--json")
    assert result.code == 0, result.err
    document: dict[str, Any] = result.json
    return document


def stored_scores(row: tuple[Any, ...]) -> npt.NDArray[np.float32]:
    """The scores column of a row of `contents`."""
    return np.frombuffer(bytes.fromhex(row[13]), "<f2").astype(np.float32)


def test_first_scan_tags_everything_and_fills_empty_genres(music: Path) -> None:
    document = scan(music)
    summary = document["summary"]
    assert {key: summary[key] for key in ("tagged", "unchanged", "written", "skipped", "failed")} == {
        "tagged": 4, "unchanged": 0, "written": 3, "skipped": 0, "failed": 0,
    }  # fmt: skip
    assert summary["audio_hours"] == pytest.approx((70 + 45 + 35 + 3) / 3600, abs=1e-3)
    assert genres(music / "b.flac") == ["Polka"]
    assert set(genres(music / "a.flac")) == {"Rock", "Jazz"}
    tracks = {Path(track["path"]).name: track for track in document["tracks"]}
    assert tracks["a.flac"]["frames"] == 2
    assert tracks["a.flac"]["genres"] == genres(music / "a.flac")
    assert tracks["short.flac"]["padded"] and tracks["short.flac"]["frames"] == 1
    scores = [tag["score"] for tag in tracks["a.flac"]["tags"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 4


def test_second_scan_decodes_and_writes_nothing(music: Path, home: Path) -> None:
    scan(music)
    before = contents(home / "library.db")
    summary = scan(music)["summary"]
    assert (summary["tagged"], summary["unchanged"], summary["written"], summary["audio_hours"]) == (0, 4, 0, 0)
    assert contents(home / "library.db") == before


def test_scores_do_not_depend_on_batch_size(music: Path, tmp_path: Path) -> None:
    scan(music, "--write", "none", "--db", tmp_path / "one.db", "--batch-size", 1)
    scan(music, "--write", "none", "--db", tmp_path / "many.db", "--batch-size", 16)
    one, many = contents(tmp_path / "one.db"), contents(tmp_path / "many.db")
    for left, right in zip(one, many, strict=True):
        np.testing.assert_allclose(stored_scores(left), stored_scores(right), atol=2e-3)
        assert left[:13] == right[:13]


@pytest.mark.parametrize(("mode", "expected"), [("append", ["Polka", "Rock", "Jazz"]), ("none", ["Polka"])])
def test_append_keeps_existing_genres_first(music: Path, mode: str, expected: list[str]) -> None:
    scan(music, "--write", mode)
    assert sorted(genres(music / "b.flac")[1:]) == sorted(expected[1:])
    assert genres(music / "b.flac")[0] == "Polka"


def test_replace_replaces_and_is_stable(music: Path) -> None:
    assert scan(music, "--write", "replace")["summary"]["written"] == 4
    assert "Polka" not in genres(music / "b.flac")
    assert scan(music, "--write", "replace")["summary"]["written"] == 0


def test_unchanged_tracks_are_written_by_a_later_scan_that_writes(music: Path) -> None:
    scan(music, "--write", "none")
    assert genres(music / "a.flac") == []
    summary = scan(music)["summary"]
    assert (summary["tagged"], summary["written"]) == (0, 3)


def test_dry_run_touches_no_file(music: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in music.rglob("*.*")}
    document = scan(music, "--dry-run")
    assert len(document["changes"]) == 3
    assert document["summary"]["written"] == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in music.rglob("*.*")} == before


def test_no_genre_is_written_below_the_threshold(music: Path) -> None:
    assert scan(music, "--min-score", "1")["summary"]["written"] == 0
    assert genres(music / "a.flac") == []


def test_retagged_renamed_moved_and_copied_files_are_not_analysed_again(music: Path) -> None:
    scan(music)
    tags = mutagen.File(music / "a.flac")
    tags["title"] = ["x" * 5000]
    tags.save()
    (music / "b.flac").rename(music / "sub" / "renamed.flac")
    shutil.copy(music / "short.flac", music / "copy.flac")
    summary = scan(music)["summary"]
    assert summary["audio_hours"] == 0
    assert (summary["tagged"], summary["unchanged"], summary["missing"]) == (0, 5, 1)


def test_two_copies_are_decoded_once(tmp_path: Path) -> None:
    write_tone(tmp_path / "m" / "one.flac", 40)
    shutil.copy(tmp_path / "m" / "one.flac", tmp_path / "m" / "two.flac")
    summary = scan(tmp_path / "m", "--write", "none")["summary"]
    assert summary["tagged"] == 2
    assert summary["audio_hours"] == pytest.approx(40 / 3600, abs=1e-3)


def test_models_coexist_and_another_slicing_is_stale(music: Path, home: Path) -> None:
    make_model(home / "models", "other", seed=1)
    scan(music, "--write", "none")
    assert scan(music, "--write", "none", "--model", "other")["summary"]["tagged"] == 4
    assert scan(music, "--write", "none")["summary"]["unchanged"] == 4
    assert scan(music, "--write", "none", "--frames", "1")["summary"]["tagged"] == 4
    names = [run("query", "--json", "--model", name).json["tracks"][0]["model"] for name in (TINY, "other")]
    assert names == [TINY, "other"]


def test_model_by_path(music: Path, home: Path) -> None:
    document = scan(music, "--write", "none", "--model", home / "models" / f"{TINY}.safetensors")
    assert document["tracks"][0]["model"] == TINY


def test_corpus_of_broken_files(tmp_path: Path, home: Path) -> None:
    """Each has its outcome in expected.json; the intact file beside them is tagged."""
    import json

    expected = json.loads((CORPUS / "expected.json").read_text())
    folder = tmp_path / "broken"
    shutil.copytree(CORPUS, folder)
    write_tone(folder / "zz-intact.flac", 31)
    result = run("scan", folder, "--json", "--write", "none")
    assert result.code == EXIT_SOME_FAILED, result.err
    document = result.json
    status = {Path(track["path"]).name: track["status"] for track in document["tracks"]}
    failed = {Path(failure["path"]).name: failure["reason"] for failure in document["failures"]}
    assert status.pop("zz-intact.flac") == "ok"
    for name, expectation in expected.items():
        outcome = expectation["outcome"]
        if outcome.startswith("not audio"):
            assert name not in status and name not in failed
        else:
            assert status[name] == {"tagged": "ok"}.get(outcome, outcome), (name, failed.get(name))
        assert (name in failed) == (outcome == "failed")
        if outcome == "failed":
            assert failed[name] and "\n" not in failed[name]
            assert str(folder / name) in result.err
    summary = document["summary"]
    assert summary["failed"] == len(failed)
    again = run("scan", folder, "--json", "--write", "none")
    assert again.code == 0
    assert again.json["summary"]["skipped"] == len(failed)
    retried = run("scan", folder, "--json", "--write", "none", "--retry-failed")
    assert retried.json["summary"]["failed"] == len(failed)
    listed = run("failed", "--json").json["failures"]
    assert {Path(failure["path"]).name for failure in listed} == set(failed)


def test_a_failed_file_is_tried_again_when_it_changes(tmp_path: Path) -> None:
    track = tmp_path / "m" / "a.flac"
    track.parent.mkdir()
    track.write_bytes(b"fLaC nonsense")
    assert run("scan", track.parent).code == EXIT_SOME_FAILED
    write_tone(track, 31)
    assert scan(track.parent)["summary"]["tagged"] == 1
    assert run("failed").out == "no file failed\n"


def test_files_that_vanish_and_come_back(music: Path) -> None:
    scan(music, "--write", "none")
    (music / "a.flac").rename(music.parent / "a.flac")
    assert scan(music, "--write", "none")["summary"]["missing"] == 1
    assert len(run("query", "--json").json["tracks"]) == 3
    (music.parent / "a.flac").rename(music / "a.flac")
    summary = scan(music, "--write", "none")["summary"]
    assert (summary["tagged"], summary["unchanged"]) == (0, 4)
    assert len(run("query", "--json").json["tracks"]) == 4


def test_undecodable_and_very_long_names(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    source = write_tone(tmp_path / "source.flac", 31)
    names = [b"caf\xe9 \xff.flac", b"n" * 250 + b".flac", "日本語 🎵.flac".encode(), b"%41?#.flac"]
    for name in names:
        shutil.copy(source, folder / os.fsdecode(name))
    document = scan(folder)
    assert document["summary"]["written"] == 4
    assert {os.fsencode(track["path"]) for track in document["tracks"]} == {
        os.fsencode(folder) + b"/" + name for name in names
    }
    assert run("show", os.fsdecode(os.fsencode(folder) + b"/" + names[0])).code == 0
    assert os.fsencode(run("query", "--paths").out).splitlines() == sorted(
        os.fsencode(folder) + b"/" + name for name in names
    )


def test_missing_folder_and_unknown_model_are_usage_errors(tmp_path: Path, music: Path) -> None:
    missing = run("scan", tmp_path / "nowhere")
    assert missing.code == EXIT_USAGE
    assert "no such file or folder" in missing.err and missing.err.count("\n") == 1
    unknown = run("scan", music, "--model", "tinny")
    assert unknown.code == EXIT_USAGE
    assert "did you mean 'tiny'" in unknown.err


@pytest.mark.parametrize("location", ["/proc/nowhere/x.db", "{file}/x.db"])
def test_a_database_that_cannot_be_created(music: Path, tmp_path: Path, location: str) -> None:
    (tmp_path / "file").write_text("x")
    result = run("scan", music, "--db", location.format(file=tmp_path / "file"))
    assert result.code == 1
    assert "--db" in result.err and result.err.count("\n") == 1


def _start(music: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "musictagger", "scan", str(music), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _many(folder: Path, count: int) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.1, 12_000 * 33).astype(np.float32)
    folder.mkdir()
    for index in range(count):
        soundfile.write(folder / f"{index:03}.flac", np.roll(noise, 997 * index), 12_000)
    return folder


def _wait_for_rows(database: Path, process: subprocess.Popen[str], rows: int) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if sum(row[10] is not None for row in contents(database)) >= rows:
                return
        except Exception:
            pass
        time.sleep(0.02)
    raise AssertionError(f"the scan ended or hung before {rows} tracks were done: {process.poll()}")


def test_a_killed_scan_is_continued(tmp_path: Path) -> None:
    """A scan killed with SIGKILL and a second one give the same database as one clean scan."""
    music = _many(tmp_path / "music", 60)
    killed, clean = tmp_path / "killed.db", tmp_path / "clean.db"
    process = _start(music, "--write", "none", "--db", killed, "--batch-size", 2)
    _wait_for_rows(killed, process, 6)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = sum(row[10] is not None for row in contents(killed))
    assert 6 <= done < 60
    rerun = scan(music, "--write", "none", "--db", killed, "--batch-size", 2)["summary"]
    assert rerun["unchanged"] == done and rerun["tagged"] == 60 - done
    scan(music, "--write", "none", "--db", clean, "--batch-size", 2)
    for left, right in zip(contents(killed), contents(clean), strict=True):
        assert left[:13] == right[:13]
        np.testing.assert_allclose(stored_scores(left), stored_scores(right), atol=2e-3)


def test_interrupt_finishes_the_started_tracks_and_exits_130(tmp_path: Path) -> None:
    music = _many(tmp_path / "music", 60)
    database = tmp_path / "x.db"
    process = _start(music, "--write", "none", "--db", database, "--batch-size", 2)
    _wait_for_rows(database, process, 4)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == EXIT_INTERRUPTED, err
    assert "Traceback" not in err
    done = sum(row[10] is not None for row in contents(database))
    assert 4 <= done < 60
    assert sum(row[3] is not None for row in contents(database)) == done, "a begun track was not finished"


def test_second_scan_at_the_same_time_is_refused(tmp_path: Path) -> None:
    music = _many(tmp_path / "music", 60)
    database = tmp_path / "x.db"
    process = _start(music, "--write", "none", "--db", database, "--batch-size", 2)
    _wait_for_rows(database, process, 1)
    second = run("scan", music, "--db", database)
    assert second.code == 1
    assert "another musictagger" in second.err and second.err.count("\n") == 1
    assert run("query", "--db", database, "--json").code == 0, "reading goes on meanwhile"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)


MEMORY = """
import resource, sys
from musictagger.cli import main
if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    finally:
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            print(resource.getrusage(who).ru_maxrss // 1024, file=sys.stderr)
"""


def _memory_mib(tmp_path: Path, music: Path) -> list[int]:
    """Peak memory of a scan in a process of its own: main process, largest worker."""
    script = tmp_path / "measure.py"
    script.write_text(MEMORY)
    command = [
        sys.executable,
        script,
        "scan",
        music,
        "--write",
        "none",
        "--quiet",
        "--db",
        tmp_path / f"{music.name}.db",
    ]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return [int(line) for line in result.stderr.split()[-2:]]


def test_memory_does_not_grow_with_the_length_of_a_track(tmp_path: Path) -> None:
    second = (0.1 * np.sin(2 * np.pi * 300 * np.arange(8000) / 8000)).astype(np.float32)
    peaks = {}
    # Twenty minutes already fill every queue.
    for minutes in (20, 120):
        track = tmp_path / f"{minutes}" / "track.flac"
        track.parent.mkdir()
        with soundfile.SoundFile(track, "w", 8000, 1, format="FLAC") as file:
            for _ in range(60 * minutes):
                file.write(second)
        peaks[minutes] = _memory_mib(tmp_path, track.parent)
    # Two hours are 345 MB of float32 at 12 kHz; 100 MB are left for noise between runs.
    for short, long in zip(peaks[20], peaks[120], strict=True):
        assert long - short < 100, peaks
    assert contents(tmp_path / "120.db")[0][12] == (7200 - 10) * 100 // 2912


class Meddler(Progress):
    """Changes the files between finding and analysing them."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self._meddle = meddle

    def start(self, stage: str, total: int | None, unit: str) -> None:
        if stage == "analysing":
            self._meddle()


def scan_while(music: Path, meddle: Callable[[], object]) -> ScanReport:
    settings = load_settings({"write": "fill"})
    with opened_writer(settings) as writer:
        predictor = load_predictor(settings)
        return Scan(writer, predictor, settings, ScanOptions(), Meddler(meddle)).run([music])


def test_a_folder_that_vanishes_while_it_is_scanned(music: Path) -> None:
    report = scan_while(music, lambda: shutil.rmtree(music / "sub"))
    assert [path.name for path, _ in report.failures] == ["c.ogg"]
    assert "No such file" in report.failures[0][1]
    assert report.tagged == 3
    assert scan(music)["summary"]["missing"] == 1


def test_a_file_replaced_while_it_is_scanned_never_gets_the_scores_of_another(music: Path, home: Path) -> None:
    """Its digest was taken before, in an earlier scan; the scores of the new audio must not be stored under it."""
    scan(music, "--write", "none")
    before = {row[3]: row[13] for row in contents(home / "library.db")}
    make_model(home / "models", "other", seed=1)
    settings = load_settings({"model": "other"})
    with opened_writer(settings) as writer:
        predictor = load_predictor(settings)
        meddler = Meddler(lambda: write_tone(music / "a.flac", 50, 999))
        report = Scan(writer, predictor, settings, ScanOptions(), meddler).run([music])
    assert [path.name for path, _ in report.failures] == ["a.flac"]
    assert "changed while it was being scanned" in report.failures[0][1]
    assert scan(music, "--write", "none")["summary"]["tagged"] == 1
    after = {row[3]: row[13] for row in contents(home / "library.db") if row[8] == TINY}
    assert all(after[digest] == scores for digest, scores in before.items() if digest in after)


def test_temporary_copies_of_a_killed_write_are_removed(music: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = safewrite._HOST
    left = music / f".musictagger-{host}-{gone.pid}-0123abcd.tmp"
    left.write_bytes(b"half a copy")
    ours = music / f".musictagger-{host}-{os.getpid()}-0123abcd.tmp"
    ours.write_bytes(b"a write that goes on")
    scan(music, "--write", "none")
    assert not left.exists()
    assert ours.exists()


def test_a_drive_that_disappears_and_comes_back_loses_nothing(music: Path, home: Path) -> None:
    """Its files fail, but their analyses stay, and --retry-failed is not needed."""
    scan(music, "--write", "none")
    make_model(home / "models", "other", seed=1)
    settings = load_settings({"model": "other", "write": "none"})
    away = music.parent / "away"
    with opened_writer(settings) as writer:
        predictor = load_predictor(settings)
        meddler = Meddler(lambda: music.rename(away))
        report = Scan(writer, predictor, settings, ScanOptions(), meddler).run([music])
    assert len(report.failures) == 4
    away.rename(music)
    assert scan(music, "--write", "none")["summary"]["unchanged"] == 4
    assert scan(music, "--write", "none", "--model", "other")["summary"]["tagged"] == 4
    assert run("failed").out == "no file failed\n"


def test_files_found_only_by_all_files_are_not_missing(music: Path) -> None:
    (music / "a.flac").rename(music / "a.audio")
    scan(music, "--write", "none", "--all-files")
    assert scan(music, "--write", "none")["summary"]["missing"] == 0
    assert len(run("query", "--json").json["tracks"]) == 4


def test_a_model_that_analysed_nothing_is_not_the_last_used(music: Path, home: Path, tmp_path: Path) -> None:
    scan(music, "--write", "none")
    make_model(home / "models", "other", seed=1)
    (tmp_path / "empty").mkdir()
    scan(tmp_path / "empty", "--model", "other")
    monkey_free = {name: value for name, value in os.environ.items() if name != "MUSICTAGGER_MODEL"}
    command = [sys.executable, "-m", "musictagger", "query", "--json", "--limit", "1"]
    found = subprocess.run(command, capture_output=True, text=True, env=monkey_free, check=True).stdout
    assert f'"model": "{TINY}"' in found


def test_copies_share_an_analysis_by_another_model(music: Path, home: Path) -> None:
    shutil.copy(music / "a.flac", music / "copy.flac")
    scan(music, "--write", "none")
    make_model(home / "models", "other", seed=1)
    summary = scan(music, "--write", "none", "--model", "other", "--batch-size", "1")["summary"]
    assert summary["audio_hours"] == pytest.approx((70 + 45 + 35 + 3) / 3600, abs=1e-3)


def test_a_silent_copy_is_not_tagged(tmp_path: Path) -> None:
    write_tone(tmp_path / "m" / "silence.flac", 40, 0.0)
    scan(tmp_path / "m")
    shutil.copy(tmp_path / "m" / "silence.flac", tmp_path / "m" / "copy.flac")
    summary = scan(tmp_path / "m")["summary"]
    assert (summary["tagged"], summary["unchanged"], summary["skipped"]) == (0, 1, 1)


def test_a_pipe_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "models")
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(tmp_path))
    os.mkfifo(tmp_path / "pipe.mp3")
    result = run("scan", tmp_path / "pipe.mp3", "--model", TINY, "--device", "cpu")
    assert "pipe.mp3: not a regular file but a pipe" in result.err


def test_absurdly_large_samples_fail_one_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "models")
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(tmp_path))
    write_tone(tmp_path / "music" / "fine.flac", 31)
    loud = np.full(31 * 12_000, 1e30, np.float32)
    loud[::2] *= -1
    soundfile.write(tmp_path / "music" / "loud.wav", loud, 12_000, subtype="FLOAT")
    result = run("scan", tmp_path / "music", "--model", TINY, "--device", "cpu", "--json")
    assert result.code == EXIT_SOME_FAILED
    assert [Path(failure["path"]).name for failure in result.json["failures"]] == ["loud.wav"]
    assert "not finite" in result.json["failures"][0]["reason"]
    assert result.json["summary"]["tagged"] == 1

"""A walk finds music files in a fixed order, and reports files and folders that it cannot read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from musictagger.audio.formats.table import AUDIO_SUFFIXES
from musictagger.audio.walk import FoundFile, WalkProblem, is_music, walk
from musictagger.errors import BadRequestError, printable

posix_only = pytest.mark.skipif(os.name != "posix", reason="file names are text there")


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(root: Path, *roots: Path, all_files: bool = False) -> list[str]:
    return [os.path.relpath(found.path, root) for found in walk([root, *roots], all_files=all_files)]


def test_files_of_a_folder_come_before_its_folders_each_sorted_by_bytes(tmp_path: Path) -> None:
    wanted = ["B.mp3", "a.mp3", "ä.mp3", "B/z.mp3", "a/1/x.mp3", "a/1/y.mp3", "a b/c.mp3"]
    for name in sorted(wanted):
        touch(tmp_path / name)
    assert names(tmp_path) == ["B.mp3", "a.mp3", "ä.mp3", "B/z.mp3", "a/1/x.mp3", "a/1/y.mp3", "a b/c.mp3"]
    assert names(tmp_path) == names(tmp_path)


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES))
def test_music_is_recognised_by_its_extension_in_any_case(suffix: str, tmp_path: Path) -> None:
    assert is_music(Path(f"song{suffix}"))
    assert is_music(Path(f"song.live{suffix.upper()}"))


def test_common_extensions_are_known() -> None:
    asked = ["mp3", "flac", "ogg", "oga", "opus", "m4a", "mp4", "aac", "wav", "aif", "aiff", "wma", "ape", "wv", "mka"]
    assert {f".{name}" for name in asked} <= AUDIO_SUFFIXES


@pytest.mark.parametrize("name", ["cover.jpg", "song.mp3.part", "mp3", "notes.txt", "list.m3u", "song", "song."])
def test_other_files_are_not_music(name: str, tmp_path: Path) -> None:
    touch(tmp_path / name)
    assert names(tmp_path) == []


def test_size_and_time_are_those_of_the_file(tmp_path: Path) -> None:
    path = touch(tmp_path / "a.mp3", b"12345")
    os.utime(path, ns=(1, 1_234_567_890_123_456_700))
    status = path.stat()
    assert list(walk([tmp_path])) == [FoundFile(path, 5, status.st_mtime_ns)]


def test_hidden_files_and_folders_are_skipped_unless_given(tmp_path: Path) -> None:
    for name in ("._a.mp3", ".hidden.mp3", ".Trash/b.mp3", "c.mp3"):
        touch(tmp_path / name)
    assert names(tmp_path) == ["c.mp3"]
    assert names(tmp_path, tmp_path / ".hidden.mp3", tmp_path / ".Trash") == ["c.mp3", ".Trash/b.mp3", ".hidden.mp3"]


def test_a_given_file_needs_no_known_extension(tmp_path: Path) -> None:
    path = touch(tmp_path / "notes.txt")
    assert [found.path for found in walk([path])] == [path]


def test_overlapping_roots_give_each_file_once(tmp_path: Path) -> None:
    song = touch(tmp_path / "a/b/song.mp3")
    roots = [tmp_path / "a" / "b", song, tmp_path, tmp_path / "a", tmp_path / "a" / ".." / "a"]
    assert [found.path for found in walk(roots)] == [song]


def test_relative_roots_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = touch(tmp_path / "a/song.mp3")
    monkeypatch.chdir(tmp_path)
    for root in ("a", ".", "a/song.mp3", "a/../a"):
        assert [found.path for found in walk([Path(root)])] == [song]


def test_links_are_followed_and_their_loops_end(tmp_path: Path) -> None:
    song = touch(tmp_path / "a/song.mp3")
    outside = touch(tmp_path.with_name(tmp_path.name + "-outside") / "far.mp3").parent
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "far").symlink_to(outside, target_is_directory=True)
    (tmp_path / "link.mp3").symlink_to(song)
    assert names(tmp_path) == ["link.mp3", "a/song.mp3", "far/far.mp3"]


def test_a_folder_reached_by_two_links_is_entered_once(tmp_path: Path) -> None:
    touch(tmp_path / "z/song.mp3")
    (tmp_path / "y").symlink_to("z", target_is_directory=True)
    assert len(names(tmp_path)) == 1


def test_a_broken_link_is_reported_if_its_name_looks_like_music(tmp_path: Path) -> None:
    (tmp_path / "gone.mp3").symlink_to("nowhere")
    (tmp_path / "loop.flac").symlink_to("loop.flac")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    found = list(walk([tmp_path]))
    assert [problem.path.name for problem in found] == ["gone.mp3", "loop.flac"]
    assert all(isinstance(problem, WalkProblem) and "cannot be read: " in problem.reason for problem in found)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_reported_and_stops_nothing(tmp_path: Path) -> None:
    touch(tmp_path / "a/hidden.mp3")
    touch(tmp_path / "b.mp3")
    (tmp_path / "a").chmod(0)
    try:
        found = list(walk([tmp_path]))
    finally:
        (tmp_path / "a").chmod(0o700)
    assert found[0].path == tmp_path / "b.mp3"
    assert found[1] == WalkProblem(tmp_path / "a", "cannot be read: Permission denied")


def test_a_folder_that_cannot_be_listed_is_reported_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like the test above, for tests run as root."""
    touch(tmp_path / "a/hidden.mp3")
    touch(tmp_path / "b/song.mp3")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path == tmp_path / "a":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    problem, song = walk([tmp_path])
    assert problem == WalkProblem(tmp_path / "a", "cannot be read: Permission denied")
    assert song.path == tmp_path / "b/song.mp3"


def test_a_folder_that_vanishes_during_the_walk_is_reported(tmp_path: Path) -> None:
    for name in ("a.mp3", "b/song.mp3", "c/song.mp3"):
        touch(tmp_path / name)
    found = []
    for item in walk([tmp_path]):
        found.append(item)
        if item.path.name == "a.mp3":
            (tmp_path / "b/song.mp3").unlink()
            (tmp_path / "b").rmdir()
    assert [item.path.relative_to(tmp_path).as_posix() for item in found] == ["a.mp3", "b", "c/song.mp3"]
    assert isinstance(found[1], WalkProblem)


def test_a_missing_root_is_an_error_before_anything_is_found(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp3")
    with pytest.raises(BadRequestError, match="missing: no such file or folder"):
        next(walk([tmp_path, tmp_path / "missing"]))


@pytest.mark.parametrize(
    ("head", "music"),
    [
        (b"ID3\x04", True), (b"fLaC", True), (b"OggS", True), (b"RIFF\x00\x00\x00\x00WAVE", True),
        (b"BW64\xff\xff\xff\xffWAVE", True),
        (b"\xff\xfb\x90", True),
        (b"FORM\x00\x00\x00\x00AIFF", True), (b"\x00\x00\x00\x20ftypM4A ", True), (b"MAC ", True), (b"wvpk", True),
        (bytes.fromhex("3026b2758e66cf11a6d9"), True), (bytes.fromhex("1a45dfa3"), True), (b"\xff\xf1\x50", True),
        (b"", False), (b"\xff", False), (b"#!/bin/sh", False), (b"%PDF", False), (b"\x89PNG", False),
    ],
)  # fmt: skip
def test_all_files_are_recognised_by_content(head: bytes, music: bool, tmp_path: Path) -> None:
    for name in ("song", "song.doc"):
        touch(tmp_path / name, head + bytes(20) * bool(head))
    assert names(tmp_path) == []
    assert names(tmp_path, all_files=True) == (["song", "song.doc"] if music else [])


@pytest.mark.parametrize(
    "content",
    [
        b"RIFF\x24\x00\x00\x00AVI LIST",
        b"RIFF\x24\x00\x00\x00WEBPVP8 ",
        b"FORM\x00\x00\x00\x24ILBM",
        b"\x00\x00\x00\x20ftypheic",
        b"\x00\x00\x00\x20ftypavif",
        "text in UTF-16".encode("utf-16"),
        b"\xff\xff\xff\xff",
    ],
)
def test_other_files_of_the_same_formats_are_not_music(content: bytes, tmp_path: Path) -> None:
    touch(tmp_path / "picture", content)
    assert names(tmp_path, all_files=True) == []


@posix_only
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert names(tmp_path, all_files=True) == []


@posix_only
def test_names_of_255_bytes_and_undecodable_names(tmp_path: Path) -> None:
    longest = "é" * 125 + "x.mp3"
    assert len(os.fsencode(longest)) == 255
    touch(tmp_path / longest)
    undecodable = os.fsdecode(b"caf\xe9.mp3")
    touch(tmp_path / undecodable)
    touch(tmp_path / os.fsdecode(b"f\xff") / "song.mp3")
    found = list(walk([tmp_path]))
    assert [os.fsencode(item.path.name) for item in found] == [b"caf\xe9.mp3", os.fsencode(longest), b"song.mp3"]
    assert all(isinstance(item, FoundFile) for item in found)
    assert printable(found[0].path).endswith("caf?.mp3")

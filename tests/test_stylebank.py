"""The rendered set: chart and split rules, MIDI reading, manifests, and three rendered tracks if the tools exist."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile

from musictagger.datasets import manifest
from musictagger.datasets.base import SPLITS, check_leaks
from musictagger.errors import BadRequestError
from tools import stylebank, stylebank_render
from tools.stylebank import Options, Track, main, make_track
from tools.stylebank_bank import CYCLE, SOUNDFONTS, deal, load_bank, splits
from tools.stylebank_charts import KINDS, draw_chart, melody, note_name
from tools.stylebank_render import Arrangement, Grooves, SilentError, StyleError, parse_grooves, script

OPTIONS = Options(seed=0, seconds=6, test_seconds=8, genres=12)
DURATIONS = {"2": 2.0, "4": 1.0, "4.": 1.5, "8": 0.5, "16": 0.25}


def _missing() -> str:
    try:
        stylebank_render.require_tools()
    except BadRequestError as error:
        return str(error)
    return ""


rendered = pytest.mark.skipif(bool(_missing()), reason=_missing() or "all there")


def test_no_style_is_in_two_splits_or_genres() -> None:
    bank = load_bank()
    everywhere = [style for genre in bank.genres for part in splits(genre).values() for style in part]
    assert len(everywhere) == len(set(everywhere)) == sum(len(genre.styles) for genre in bank.genres)


def test_every_genre_has_styles_for_every_split() -> None:
    bank = load_bank()
    assert len(bank.genres) >= 12
    for genre in bank.genres:
        parts = splits(genre)
        assert len(genre.styles) >= 6
        assert len(parts["test"]) >= 2 and len(parts["train"]) >= 4 and parts["valid"], genre.name


def test_the_bank_is_consistent() -> None:
    bank = load_bank()
    styles = {style for genre in bank.genres for style in genre.styles}
    assert set(bank.tempo) <= styles
    for genre in bank.genres:
        assert set(genre.chords) <= set(KINDS)
        assert genre.name in bank.backing or not any(style.startswith("zoom/") for style in genre.styles)
    assert all(40 <= low < high <= 300 for low, high in [*bank.tempo.values(), *(g.tempo for g in bank.genres)])
    programs = Counter(program for family in bank.instruments.values() for program in family)
    assert max(programs.values()) == 1 and set(programs) <= set(range(128))


@pytest.mark.parametrize("seed", [0, 7])
def test_every_genre_has_the_right_share_of_each_split(seed: int) -> None:
    bank = load_bank(12)
    counts = Counter((slot.genre.name, slot.split) for slot in (deal(bank, seed, index) for index in range(960)))
    for genre in bank.genres:
        assert [counts[genre.name, split] for split in SPLITS] == [50, 10, 20]


def test_a_slot_tries_only_styles_of_its_own_split() -> None:
    bank = load_bank(12)
    firsts = set()
    for index in range(600):
        slot = deal(bank, 3, index)
        assert sorted(slot.styles) == sorted(splits(slot.genre)[slot.split])
        firsts.add(slot.styles[0])
    assert firsts == {style for genre in bank.genres for style in genre.styles}


def test_soundfonts_of_test_are_not_used_in_other_splits() -> None:
    fonts = SOUNDFONTS
    assert not set(fonts["test"]) & {*fonts["train"], *fonts["valid"]}


def test_a_wrong_number_of_genres_is_refused() -> None:
    for count in (1, 99):
        with pytest.raises(BadRequestError, match="--genres"):
            load_bank(count)


@pytest.mark.parametrize("kind", KINDS)
def test_charts_are_playable_and_differ(kind: str) -> None:
    charts = [draw_chart(Random(seed), kind) for seed in range(120)]
    assert charts == [draw_chart(Random(seed), kind) for seed in range(120)]
    assert len({chart.sections for chart in charts}) > 60
    assert {chart.key for chart in charts} == set(range(12))
    for chart in charts:
        assert max(chart.form) < len(chart.sections)
        for section in chart.sections:
            assert 4 <= len(section) <= 32
            assert all(1 <= len(bar) <= 2 and all(chart.spelled(bar)) for bar in section)


@pytest.mark.parametrize("beats", [2, 3, 4, 6])
def test_melodies_fill_their_bars(beats: int) -> None:
    chart = draw_chart(Random(1), "jazz")
    bars = chart.sections[0] * 8
    tunes = list(melody(Random(2), chart, bars, beats))
    assert len(tunes) == len(bars) and any(tunes) and not all(tunes)
    for tune in filter(None, tunes):
        words = tune.rstrip(";").split(";")
        assert sum(DURATIONS[word.rstrip("abcdefgrn#+-")] for word in words) == beats


def test_notes_are_written_in_the_notation_of_mma() -> None:
    assert [note_name(pitch) for pitch in (0, 1, 12, 25, -1)] == ["cn", "c#", "cn+", "c#++", "bn-"]


def test_grooves_are_sorted_by_use() -> None:
    text = """
Time 3/4
DefGroove Waltz  A waltz.
  defgroove Waltz1Sus
DefGroove WaltzIntro8
DefGroove waltzFA
DefGroove WaltzFill
DefGroove WaltzEnd
DefGroove Waltz2End
DefGroove waltz1E
DefGroove WaltzEndSus
DefGroove WaltzEndingB
DefGroove WaltzMetronome
"""
    assert parse_grooves(text) == Grooves(3, ("Waltz", "Waltz1Sus"), ("WaltzIntro8",), ("waltzFA", "WaltzFill"))


def _midi_file(seconds: float = 30, **changes: Any) -> Arrangement:
    grooves = Grooves(4, ("A", "B"), ("AIntro",), ("AFill",))
    arrangement = Arrangement("casio/x", grooves, draw_chart(Random(0), "pop"), 120, seconds, "Flute", None)
    return replace(arrangement, **changes)


def test_a_script_is_long_enough_and_the_same_each_time() -> None:
    text = script(Random(5), _midi_file())
    assert text == script(Random(5), _midi_file()) != script(Random(6), _midi_file())
    bars = [line for line in text.splitlines() if line[0].isdigit()]
    assert len(bars) * 4 * 60 / 120 >= 30
    assert "Groove casio/x:" in text and "Voice Flute" in text


def test_styles_of_drums_alone_get_a_backing() -> None:
    text = script(Random(5), _midi_file(backing=load_bank().backing["metal"], lead=None))
    assert "Begin Bass-Backing" in text and "DefGroove BackedA" in text and "Begin Solo" not in text
    assert all(f"Groove {name}" in text for name in ("casio/x:A", "casio/x:B"))


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + len(data).to_bytes(4, "big") + data


END = b"\0\xff\x2f\0"
MIDI = (
    _chunk(b"MThd", b"\0\1\0\2\0\xc0")  # two tracks, 192 ticks a quarter
    + _chunk(b"MTrk", b"\0\xff\x51\3\x07\xa1\x20" + END)
    + _chunk(
        b"MTrk",
        b"\0\xc0\x05\0\x90\x3c\x64"  # program 5, a note
        b"\x81\x40\x3c\0"  # a quarter later, by the status before, its end
        b"\0\xc0\x30\0\x90\x40\x50\0\x99\x24\x7f" + END,
    )
)


def test_notes_of_a_midi_file() -> None:
    found = stylebank_render.notes(MIDI, 120)
    assert [(note.second, note.program, note.velocity, note.drum) for note in found] == [
        (0.0, 5, 100, False),
        (0.5, 48, 80, False),
        (0.5, 0, 127, True),
    ]


def test_programs_are_substituted() -> None:
    altered = stylebank_render.substituted(MIDI, {5: 4, 0: 7})
    assert [note.program for note in stylebank_render.notes(altered, 120)] == [4, 48, 0]
    assert len(altered) == len(MIDI)


def test_levels_are_set_and_silence_is_refused() -> None:
    rate = stylebank_render.RATE_HZ
    tone = (0.1 * np.sin(np.arange(4 * rate) / 7)).astype(np.float32)
    wave = stylebank_render.levelled(Random(0), np.concatenate([np.zeros(rate, np.float32), tone]), 3)
    assert len(wave) == 3 * rate and abs(wave[:9]).max() > 0 and abs(wave[-1]) == 0
    assert -29 < 20 * np.log10(np.sqrt(np.mean(wave**2))) < -13
    for bad in (tone[: 2 * rate], np.zeros(4 * rate, np.float32), tone * (np.arange(len(tone)) < rate)):
        with pytest.raises(SilentError):
            stylebank_render.levelled(Random(0), bad.astype(np.float32), 3)


def _track(index: int, **changes: Any) -> Track:
    path = f"audio/000/{index:06}.ogg"
    split = CYCLE[index % 8]
    track = Track(
        index, path, ("jazz", "rock")[index // 8 % 2], split, f"lib/{split}", "F", 100, "C", 9, -20, (), 0, {}
    )
    return replace(track, **changes)


def test_manifests_read_and_do_not_leak(tmp_path: Path) -> None:
    tracks = [_track(index, tags=("drums", *(["harp"] * (index == 0)))) for index in range(48)]
    for track in tracks:
        (tmp_path / track.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / track.path).write_bytes(b"x")
    assert stylebank.write_manifests(tmp_path, tracks) == ["harp"]
    genre, tags = manifest.read(tmp_path / "genre.csv"), manifest.read(tmp_path / "tags.csv")
    assert (genre.task, genre.tags, len(genre.examples)) == ("genre", ("jazz", "rock"), 48)
    assert (tags.task, tags.tags) == ("tags", ("drums", "jazz", "rock"))
    assert manifest.read(tmp_path).examples == genre.examples
    assert check_leaks(genre) == []


def test_a_folder_of_another_set_is_refused(tmp_path: Path) -> None:
    stylebank.require_same(tmp_path / "new", OPTIONS)
    stylebank.require_same(tmp_path / "new", OPTIONS)
    with pytest.raises(BadRequestError, match="seed 0, not 1"):
        stylebank.require_same(tmp_path / "new", replace(OPTIONS, seed=1))
    (tmp_path / "song.mp3").touch()
    with pytest.raises(BadRequestError, match="neither empty"):
        stylebank.require_same(tmp_path, OPTIONS)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(stylebank_render, "SOUNDFONTS", {"X": (str(tmp_path / "x.sf2"), "x-soundfont")})
    assert main([str(tmp_path / "out")]) == 2
    assert "apt-get install mma fluidsynth x-soundfont" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_track_that_cannot_be_rendered_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StyleError("no such chord")

    monkeypatch.setattr(stylebank, "draw", fail)
    track = make_track(tmp_path, OPTIONS, 0)
    assert not track.path and set(track.failed.values()) == {"no such chord"}
    assert make_track(tmp_path, OPTIONS, 0) == track
    assert any("failed: 1" in line for line in stylebank.summary([track]))


@rendered
def test_three_tracks_are_the_same_alone_together_and_resumed(tmp_path: Path, capsys: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    flags = ["--tracks", "3", "--seconds", "6", "--test-seconds", "8"]
    assert main([str(one), *flags]) == 0
    assert "track-seconds" in capsys.readouterr().out
    assert main([str(two), *flags, "--jobs", "2"]) == 0
    for name in ("genre.csv", "tags.csv", "tracks.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    kept = sorted((one / "audio").rglob("*.ogg"))
    assert len(kept) == 3
    for path in kept:
        wave, rate = soundfile.read(path)
        twin, _ = soundfile.read(two / path.relative_to(one))
        assert rate == stylebank_render.RATE_HZ and len(wave) in (6 * rate, 8 * rate) and abs(wave).max() > 0.01
        assert np.array_equal(wave, twin)
    stamps = [path.stat().st_mtime_ns for path in kept]
    kept[1].unlink()
    assert main([str(one), *flags]) == 0
    assert [path.stat().st_mtime_ns == stamp for path, stamp in zip(kept, stamps, strict=True)] == [True, False, True]
    facts = json.loads((one / "facts" / "000001.json").read_text())
    assert facts == json.loads((two / "facts" / "000001.json").read_text())


@rendered
def test_the_same_seed_gives_the_same_midi() -> None:
    bank = load_bank(12)
    slot = deal(bank, 0, 5)
    with tempfile.TemporaryDirectory() as folder:
        drawn = [stylebank.draw(Random(s), bank, slot, slot.styles[0], 5, Path(folder)) for s in ("a", "a", "b")]
    assert drawn[0].midi == drawn[1].midi != drawn[2].midi
    assert asdict(drawn[0].arrangement) == asdict(drawn[1].arrangement)

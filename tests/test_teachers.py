from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_card
from helpers import make_model, write_tone

from musictagger.audio.decode import decode_frames
from musictagger.audio.frames import FrameRule
from musictagger.audio.frontend import FrontEnd
from musictagger.config import Settings
from musictagger.errors import BadRequestError, MusictaggerError
from musictagger.models.calibration import Calibration, Curve
from musictagger.models.card import Card, Tag
from musictagger.models.heads import WithHead
from musictagger.models.inference import Predictor, has_bfloat16
from musictagger.models.registry import build
from musictagger.models.vocabulary import tags_for
from musictagger.models.weights import Model, load_model
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import SourceFile, stream
from musictagger.progress import SILENT, Progress
from musictagger.training.distillation import teacher_scores
from musictagger.training.distillation.targets import CachedTeachers, StudentTargets, combine_targets, decisions
from musictagger.training.distillation.teacher_scores import (
    Teacher,
    TeacherPasses,
    cache_teacher_scores,
    load_teachers,
    make_teacher,
    read_scores,
    score_type,
)
from musictagger.training.melcache.files import track_file
from musictagger.training.windows import Track

RATE_HZ = 8_000
SMALL: dict[str, Any] = {
    "patch_columns": 60,
    "timbral_channels": 3,
    "temporal_channels": 2,
    "mid_channels": 4,
    "units": 6,
}
SMALL_OUTPUTS = ("rock", "classical", "classic", "piano", "80s")


def small_musicnn(seed: int = 0) -> Model:
    """A musicnn with random weights and patches of 60 x 256 samples at 8 kHz, 1.92 s."""
    torch.manual_seed(seed)
    backbone = build("musicnn", len(SMALL_OUTPUTS), SMALL)
    front_end = FrontEnd(sample_rate_hz=RATE_HZ, frame_hops=240, mel_scale="htk", compression="log1p")
    card = Card(
        "patches", "musicnn", SMALL, front_end, SMALL_OUTPUTS, tags_for(SMALL_OUTPUTS, 0.5), "tags", f"{seed:064d}"
    )
    return Model(card, backbone.eval().requires_grad_(False))


@pytest.fixture(scope="module")
def fcn(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(make_model(tmp_path_factory.mktemp("fcn")))


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Three tracks of 41.5, 20 and 1.5 s."""
    folder = tmp_path_factory.mktemp("music")
    seconds = {"long": 41.5, "short": 20.0, "tiny": 1.5}
    paths = [write_tone(folder / f"{name}.wav", s, 200 + 40 * s) for name, s in seconds.items()]
    return {path: digest_of(path.stem) for path in paths}


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def track(name: str, *tags: str) -> Track:
    return Track(Path(name), digest_of(name), 0, tags)


def score(
    teachers: list[Teacher], music: Mapping[Path, str], cache: Path, progress: Progress = SILENT
) -> TeacherPasses:
    return cache_teacher_scores(teachers, music, cache, decoding=Decoding(1), progress=progress, device="cpu")


@pytest.fixture(scope="module")
def both(fcn: Model) -> list[Teacher]:
    return [make_teacher(fcn), make_teacher(small_musicnn())]


@pytest.fixture(scope="module")
def cache(both: list[Teacher], music: dict[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    passes = score(both, music, folder)
    assert passes == TeacherPasses({}, False)
    return folder


def whole_wave(path: Path, rate_hz: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([wave for _, wave in decode_frames(path, rate_hz, FrameRule(rate_hz, tail=True))])


def made_up(name: str, tags: Mapping[str, str], **changes: Any) -> Teacher:
    """A teacher that needs no backbone: its scores are written by hand."""
    outputs = tuple(tag.lower() for tag in tags)
    made = tuple(Tag(tag, category, (tag.lower(),), 0.5) for tag, category in tags.items())  # type: ignore[arg-type]
    card = make_card(name=name, outputs=outputs, tags=made, front_end=FrontEnd(sample_rate_hz=1000, hop_samples=100))
    return Teacher(Model(card, torch.nn.Identity()), name * 16, 100)  # type: ignore[arg-type]


def write_rows(teacher: Teacher, cache: Path, digest: str, rows: list[tuple[float, float, list[float]]]) -> None:
    path = track_file(teacher.folder(cache), digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array([(a, b, s) for a, b, s in rows], score_type(len(teacher.card.outputs))))


def logit(score: Any) -> Any:
    return np.log(score) - np.log1p(-np.asarray(score))


def sigmoid(value: Any) -> Any:
    return 1 / (1 + np.exp(-value))


class TestTeachers:
    def test_a_frame_by_quarters(self, fcn: Model) -> None:
        teacher = make_teacher(fcn)
        assert teacher.window_samples == 1365 * 256
        assert teacher.hop_samples == 1365 * 64
        assert teacher.key == fcn.card.key == teacher.card.key

    def test_musicnn_patch_by_patch(self) -> None:
        teacher = make_teacher(small_musicnn())
        assert teacher.window_samples == teacher.hop_samples == 60 * 256
        assert teacher.key == small_musicnn().card.key

    def test_musicnn_with_a_head_patch_by_patch(self) -> None:
        bare = small_musicnn()
        teacher = make_teacher(Model(bare.card, WithHead(bare.bare, torch.nn.Identity())))  # type: ignore[arg-type]
        assert teacher.window_samples == teacher.hop_samples == 60 * 256

    def test_by_name(self, tmp_path: Path) -> None:
        weights = make_model(tmp_path / "models")
        settings = Settings(data_dir=tmp_path)
        one, other = load_teachers(["tiny", str(weights), "tiny"], settings)
        assert one.key == other.key
        with pytest.raises(BadRequestError, match="did you mean 'tiny'"):
            load_teachers(["tinny"], settings)


class TestScoring:
    def test_windows_are_those_of_the_scan_and_the_end(
        self, both: list[Teacher], music: dict[Path, str], cache: Path
    ) -> None:
        for teacher in both:
            front_end = teacher.card.front_end
            predict = Predictor(teacher.model, "cpu", bfloat16=has_bfloat16(torch.device("cpu")))
            for path, digest in music.items():
                rows = read_scores(teacher, cache, digest)
                assert rows is not None
                wave = whole_wave(path, front_end.sample_rate_hz)
                window, hop = teacher.window_samples, teacher.hop_samples
                starts = list(range(0, len(wave) - window + 1, hop)) or [0]
                if starts[-1] + window < len(wave):
                    starts.append(len(wave) - window)
                waves = [np.resize(wave[start : start + window], window) for start in starts]
                np.testing.assert_allclose(rows["start_s"] * front_end.sample_rate_hz, starts, atol=0.1)
                assert rows["end_s"][-1] * front_end.sample_rate_hz == pytest.approx(len(wave), abs=0.1)
                np.testing.assert_allclose(rows["scores"], predict(waves).scores, atol=2e-3)

    def test_cached_scores_are_not_computed_again(
        self, both: list[Teacher], music: dict[Path, str], cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("decoded again")

        monkeypatch.setattr(teacher_scores, "stream", refuse)
        assert score(both, music, cache) == TeacherPasses({}, False)

    def test_teachers_of_one_rate_share_the_decoding(
        self, music: dict[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decoded: list[SourceFile] = []

        def counted(sources: Sequence[SourceFile], **options: Any) -> Any:
            decoded.extend(sources)
            return stream(sources, **options)

        monkeypatch.setattr(teacher_scores, "stream", counted)
        model = small_musicnn()
        once = make_teacher(model)
        pair = [once, dataclasses.replace(once, hop_samples=4000)]
        assert not score(pair, music, tmp_path).failures
        assert len(decoded) == len(set(music.values()))
        for teacher in pair:
            assert all(read_scores(teacher, tmp_path, digest) is not None for digest in music.values())

    @pytest.mark.parametrize("damage", [b"", b"\x93NUMPY nonsense", None])
    def test_damaged_scores_are_computed_again(
        self, damage: bytes | None, both: list[Teacher], music: dict[Path, str], cache: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(cache, tmp_path / "cache")
        path = track_file(both[1].folder(tmp_path / "cache"), digest_of("short"))
        good = path.read_bytes()
        path.write_bytes(good[:-3] if damage is None else damage)
        assert not score(both, music, tmp_path / "cache").failures
        assert path.read_bytes() == good
        assert not list(tmp_path.rglob("*.tmp"))

    def test_a_stopped_run_is_continued(self, both: list[Teacher], music: dict[Path, str], tmp_path: Path) -> None:
        done: list[Path] = []

        class StopAfterOne(Progress):
            @property
            def stopping(self) -> bool:  # type: ignore[override]
                done[:] = tmp_path.rglob("*.npy")
                return bool(done)

        assert score(both, music, tmp_path, StopAfterOne()).interrupted
        assert 0 < len(done) < 6
        before = {path: path.stat().st_mtime_ns for path in done}
        assert score(both, music, tmp_path) == TeacherPasses({}, False)
        assert len(list(tmp_path.rglob("*.npy"))) == 6
        assert all(path.stat().st_mtime_ns == time for path, time in before.items())

    def test_one_broken_file_stops_nothing(self, music: dict[Path, str], tmp_path: Path) -> None:
        broken, silent, gone = tmp_path / "broken.mp3", tmp_path / "silent.wav", tmp_path / "gone.mp3"
        broken.write_bytes(b"no music at all" * 100)
        write_tone(silent, 0.3)
        tiny = next(path for path in music if path.stem == "tiny")
        tracks = {broken: digest_of("b"), silent: digest_of("s"), gone: digest_of("g"), tiny: digest_of("tiny")}
        passes = score([make_teacher(small_musicnn())], tracks, tmp_path / "cache")
        assert set(passes.failures) == {broken, silent, gone} and not passes.interrupted
        assert passes.failures[silent] == "teacher patches: too short"
        assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1

    def test_a_readable_copy_is_used(self, music: dict[Path, str], tmp_path: Path) -> None:
        broken = tmp_path / "broken.wav"
        broken.write_bytes(b"RIFF")
        tiny = next(path for path in music if path.stem == "tiny")
        passes = score([make_teacher(small_musicnn())], {broken: digest_of("t"), tiny: digest_of("t")}, tmp_path / "c")
        assert passes == TeacherPasses({}, False)

    def test_scores_that_are_not_finite_are_not_kept(self, music: dict[Path, str], tmp_path: Path) -> None:
        model = small_musicnn()
        torch.nn.init.constant_(model.backbone.dense.output.bias, math.nan)  # type: ignore[union-attr, arg-type]
        passes = score([make_teacher(model)], music, tmp_path)
        assert all("not finite" in reason for reason in passes.failures.values())
        assert set(passes.failures) == set(music) and not list(tmp_path.rglob("*.npy"))

    def test_a_failing_write_gives_a_readable_message(self, music: dict[Path, str], tmp_path: Path) -> None:
        (tmp_path / "teachers").write_text("in the way")
        with pytest.raises(MusictaggerError, match="run the same command again"):
            score([make_teacher(small_musicnn())], music, tmp_path)


class TestVocabulary:
    def test_is_the_union_by_category_and_name(self, both: list[Teacher], tmp_path: Path) -> None:
        teachers = CachedTeachers(both, tmp_path)
        assert teachers.tags == ("Classical", "Jazz", "Rock", "Mellow", "Guitar", "Piano", "80s")
        assert [teachers.categories[tag] for tag in teachers.tags] == [
            *("genre", "genre", "genre", "mood", "instrument", "instrument", "era")
        ]
        assert CachedTeachers(both[::-1], tmp_path).tags == teachers.tags

    def test_no_teacher_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequestError, match="no teacher"):
            CachedTeachers([], tmp_path)


class TestScores:
    def test_at_an_offset_are_the_weighted_mean_of_the_windows(
        self, both: list[Teacher], music: dict[Path, str], cache: Path
    ) -> None:
        teachers = CachedTeachers(both, cache)
        start_s, length_s = 7.3, 29.12
        got = dict(zip(teachers.tags, teachers.scores(digest_of("long"), start_s, length_s), strict=True))
        logits: dict[str, list[float]] = {}
        for teacher in both:
            rows = read_scores(teacher, cache, digest_of("long"))
            assert rows is not None
            position = {output: index for index, output in enumerate(teacher.card.outputs)}
            for tag in teacher.card.tags:
                total = weight = 0.0
                for row in rows:
                    overlap_s = min(row["end_s"], start_s + length_s) - max(row["start_s"], start_s)
                    if overlap_s > 0:
                        score = max(float(row["scores"][position[output]]) for output in tag.outputs)
                        total, weight = total + overlap_s * score, weight + overlap_s
                logits.setdefault(tag.name, []).append(logit(total / weight))
        assert got == pytest.approx({tag: sigmoid(np.mean(values)) for tag, values in logits.items()}, abs=1e-5)

    def test_a_whole_track_is_the_mean_over_its_windows(self, both: list[Teacher], cache: Path) -> None:
        for teacher in both:
            teachers = CachedTeachers([teacher], cache)
            rows = read_scores(teacher, cache, digest_of("short"))
            assert rows is not None
            labels = teachers.track_scores(digest_of("short"))
            rock = float(rows["scores"][:, teacher.card.outputs.index("rock")].mean(dtype=np.float64))
            assert labels[teachers.tags.index("Rock")] == pytest.approx(rock, abs=1e-5)
            np.testing.assert_array_equal(labels, teachers.scores(digest_of("short"), 0.0, math.inf))

    def test_windows_are_weighted_by_their_overlap(self, tmp_path: Path) -> None:
        teacher = made_up("a", {"Rock": "genre"})
        write_rows(teacher, tmp_path, digest_of("x"), [(0, 10, [0.25]), (10, 20, [0.5]), (20, 30, [0.75])])
        teachers = CachedTeachers([teacher], tmp_path)

        def score(start_s: float, length_s: float) -> float:
            return float(teachers.scores(digest_of("x"), start_s, length_s)[0])

        assert score(0, 10) == pytest.approx(0.25)
        assert score(5, 10) == pytest.approx(0.375)
        assert score(12, 4) == pytest.approx(0.5)
        assert score(0, 30) == pytest.approx(0.5)
        # A window never reaches past the end of a track that is longer than it.
        assert score(21, 10) == score(20, 10) == pytest.approx(0.75)
        assert score(25, 0) == pytest.approx(0.75)

    def test_a_short_track_is_repeated(self, tmp_path: Path) -> None:
        teacher = made_up("a", {"Rock": "genre"})
        write_rows(teacher, tmp_path, digest_of("x"), [(0, 10, [0.25]), (10, 20, [0.75])])
        teachers = CachedTeachers([teacher], tmp_path)
        assert teachers.scores(digest_of("x"), 0, 30)[0] == pytest.approx((20 * 0.25 + 10 * 0.75) / 30)
        assert teachers.scores(digest_of("x"), 15, 30)[0] == pytest.approx((15 * 0.25 + 15 * 0.75) / 30)
        assert teachers.scores(digest_of("x"), 0, 60)[0] == pytest.approx(0.5)

    def test_are_a_mean_of_logits_over_the_teachers_of_a_tag(self, tmp_path: Path) -> None:
        one = made_up("a", {"Rock": "genre", "Piano": "instrument"})
        other = made_up("b", {"Rock": "genre", "Sad": "mood"})
        write_rows(one, tmp_path, digest_of("x"), [(0, 10, [0.9, 0.2])])
        write_rows(other, tmp_path, digest_of("x"), [(0, 4, [0.3, 0.1]), (4, 10, [0.3, 0.1])])
        teachers = CachedTeachers([one, other], tmp_path)
        assert teachers.tags == ("Rock", "Sad", "Piano")
        expected = [sigmoid((logit(0.9) + logit(0.3)) / 2), 0.1, 0.2]
        np.testing.assert_allclose(teachers.scores(digest_of("x"), 0, 10), expected, rtol=2e-3)

    def test_are_finite_for_extreme_scores(self, tmp_path: Path) -> None:
        teacher = made_up("a", {"Rock": "genre", "Jazz": "genre"})
        write_rows(teacher, tmp_path, digest_of("x"), [(0, 10, [0.0, 1.0])])
        jazz, rock = CachedTeachers([teacher], tmp_path).scores(digest_of("x"), 0, 10)
        assert 0 < rock < 1e-7 and 0.9997 < jazz < 1

    def test_tags_of_a_teacher_without_scores_are_unknown(self, tmp_path: Path) -> None:
        one, other = made_up("a", {"Rock": "genre"}), made_up("b", {"Sad": "mood"})
        write_rows(one, tmp_path, digest_of("x"), [(0, 10, [0.9])])
        teachers = CachedTeachers([one, other], tmp_path)
        labels = teachers.scores(digest_of("x"), 0, 10)
        assert labels[0] == pytest.approx(0.9, abs=1e-3) and math.isnan(labels[1])
        assert teachers.has(digest_of("x")) and not teachers.has(digest_of("y"))
        with pytest.raises(MusictaggerError, match="no teacher has scored"):
            teachers.scores(digest_of("y"), 0, 10)

    def test_are_fast(self, tmp_path: Path) -> None:
        tags = {f"Tag {index}": "other" for index in range(50)}
        teachers = [made_up(name, tags) for name in "abcde"]
        random = np.random.default_rng(0)
        for teacher in teachers:
            rows = [(index * 3.0, index * 3.0 + 3, random.random(50).tolist()) for index in range(100)]
            write_rows(teacher, tmp_path, digest_of("x"), rows)
        union = CachedTeachers(teachers, tmp_path)
        union.scores(digest_of("x"), 0, 29.12)
        begun_s = time.process_time()
        for index in range(200):
            union.scores(digest_of("x"), index, 29.12)
        # 0.2 ms when nothing else runs; an epoch needs thousands.
        assert (time.process_time() - begun_s) / 200 < 5e-3


class TestDecisions:
    def test_are_the_highest_tenth_of_each_tag(self) -> None:
        scores = np.stack([np.arange(100) / 100, np.arange(100)[::-1] / 1000, np.full(100, 0.3)], axis=1)
        decided = decisions(scores.astype(np.float32))
        assert decided.sum(axis=0).tolist() == [10, 10, 0]
        assert decided[90:, 0].all() and decided[:10, 1].all()
        assert decisions(scores.astype(np.float32), 0.5).sum(axis=0).tolist() == [50, 50, 0]

    def test_ignore_unknown_scores(self) -> None:
        scores = np.full((20, 2), np.nan, np.float32)
        scores[:10, 0] = np.arange(10)
        decided = decisions(scores)
        assert decided.dtype == np.bool_
        assert np.argwhere(decided).tolist() == [[9, 0]]


class TestCombine:
    def test_takes_the_known_target(self) -> None:
        nan = math.nan
        soft = np.array([0.2, 0.2, nan, nan], np.float32)
        hard = np.array([1.0, nan, 0.0, nan], np.float32)
        np.testing.assert_allclose(combine_targets(soft, hard, 0.25), [0.4, 0.2, 0.0, nan], rtol=1e-6)


class TestStudentTargets:
    @pytest.fixture
    def targets(self, tmp_path: Path) -> StudentTargets:
        teacher = made_up("a", {"Hip-Hop": "genre", "Rock": "genre", "Piano": "instrument"})
        for index in range(20):
            scores = [index / 20, 0.6, 0.01 * index]
            write_rows(teacher, tmp_path, digest_of(str(index)), [(0, 10, scores), (10, 20, scores)])
        own = ["hip hop", "polka", "hiphop", "rock"]
        return StudentTargets(CachedTeachers([teacher], tmp_path), own, {"polka": "genre"}, 0.5)

    def test_know_the_tags_of_both(self, targets: StudentTargets) -> None:
        assert targets.outputs == ("Hip-Hop", "Polka", "Rock", "Piano")
        assert targets.categories["Polka"] == "genre"

    def test_of_a_track_without_labels_are_the_teachers(self, targets: StudentTargets) -> None:
        np.testing.assert_allclose(targets.target(track("5"), 3, 7), [0.25, math.nan, 0.6, 0.05], rtol=1e-3)

    def test_of_a_track_with_labels_are_combined(self, targets: StudentTargets) -> None:
        got = targets.target(track("5", "hiphop"), 0, math.inf)
        np.testing.assert_allclose(got, [0.625, 0.0, 0.3, 0.05], rtol=1e-3)
        got = targets.target(track("5", "polka"), 0, math.inf)
        np.testing.assert_allclose(got, [0.125, 1.0, 0.3, 0.05], rtol=1e-3)
        assert got.dtype == np.float32

    def test_truth_is_the_teachers_decisions_or_the_labels(self, targets: StudentTargets) -> None:
        truth = targets.truth([track(str(index), *(["polka"] if index == 3 else [])) for index in range(20)])
        assert np.argwhere(truth).tolist() == [[3, 1], [18, 0], [18, 3], [19, 0], [19, 3]]
        assert targets.truth([]).shape == (0, 4)

    def test_tags_above_threshold(self, targets: StudentTargets) -> None:
        # Each tag's threshold is 0.5 on the card.
        assert targets.tags_above_threshold(track("5")) == ("Rock",)
        assert targets.tags_above_threshold(track("15", "polka")) == ("Hip-Hop", "Polka", "Rock")

    def test_thresholds_are_the_mean_in_logits(self, tmp_path: Path) -> None:
        teachers = []
        for name, threshold in (("a", 0.5), ("b", 0.1)):
            teacher = made_up(name, {"Rock": "genre", name: "genre"})
            tags = tuple(dataclasses.replace(tag, threshold=threshold) for tag in teacher.card.tags)
            card = dataclasses.replace(teacher.card, tags=tags)
            teachers.append(dataclasses.replace(teacher, model=dataclasses.replace(teacher.model, card=card)))
        thresholds = CachedTeachers(teachers, tmp_path).thresholds
        assert thresholds == pytest.approx({"Rock": 0.25, "a": 0.5, "b": 0.1})

    def test_thresholds_are_those_before_calibration(self, tmp_path: Path) -> None:
        teacher = made_up("one", {"Rock": "genre", "Harp": "instrument"})
        lifted = Calibration({"Harp": Curve("platt", offset=4.0)})
        card = dataclasses.replace(teacher.card, calibration=lifted.to_json())
        calibrated = dataclasses.replace(teacher, model=Model(card, teacher.model.backbone))
        assert CachedTeachers([calibrated], tmp_path).thresholds == pytest.approx({"Rock": 0.5, "Harp": sigmoid(-4.0)})

    def test_need_no_labels(self, both: list[Teacher], cache: Path) -> None:
        teachers = CachedTeachers(both, cache)
        targets = StudentTargets(teachers)
        assert targets.outputs == teachers.tags and targets.categories == teachers.categories
        np.testing.assert_array_equal(
            targets.target(track("long"), 1.0, 20.0), teachers.scores(digest_of("long"), 1.0, 20.0)
        )

"""Rank correlation against scipy, and neighbours in embeddings with known clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.rank import rank_correlation, same_album_neighbours


class TestRankCorrelation:
    def test_agrees_with_scipy(self) -> None:
        random = np.random.default_rng(0)
        one = random.random((60, 4)).round(1)
        other = one + random.random((60, 4)).round(1)
        expected = [spearmanr(one[:, tag], other[:, tag]).statistic for tag in range(4)]
        np.testing.assert_allclose(rank_correlation(one, other), expected, rtol=1e-12)

    def test_leaves_out_unknown_scores(self) -> None:
        one = np.array([[1.0, 1, 1], [2, 1, 2], [3, 1, 3], [9, 1, 4]])
        other = np.array([[10.0, 1, 1], [20, 2, math.nan], [30, 3, math.nan], [math.nan, 4, 4]])
        got = rank_correlation(one, other)
        assert got[0] == pytest.approx(1.0) and np.isnan(got[1:]).all()


class TestNeighbours:
    def test_in_clusters_are_of_the_same_cluster(self) -> None:
        random = np.random.default_rng(1)
        groups = [index % 5 for index in range(50)]
        centres = random.normal(size=(5, 8))
        found = same_album_neighbours(centres[groups] + 0.01 * random.normal(size=(50, 8)), groups, 3)
        assert found.share == 1.0 and found.tracks == 50
        assert found.chance == pytest.approx(9 / 49)

    def test_in_noise_are_random(self) -> None:
        random = np.random.default_rng(2)
        found = same_album_neighbours(random.normal(size=(2000, 8)), [index % 4 for index in range(2000)], 5)
        assert found.share == pytest.approx(found.chance, abs=0.02)

    def test_do_not_depend_on_the_length_of_embeddings(self) -> None:
        embeddings = np.array([[1.0, 0], [100, 1], [0, 1], [1, 100]])
        assert same_album_neighbours(embeddings, ["a", "a", "b", "b"]).share == 1.0

    def test_of_a_track_alone_in_its_group_are_not_counted(self) -> None:
        found = same_album_neighbours(np.eye(3), ["a", "a", "b"])
        assert found.tracks == 2 and found.chance == 0.5
        assert math.isnan(same_album_neighbours(np.eye(2), ["a", "b"]).share)
        assert math.isnan(same_album_neighbours(np.zeros((0, 4)), []).share)

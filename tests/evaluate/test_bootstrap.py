"""Intervals: they cover, they pair, they know that a user's events hang together."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.evaluate.bootstrap import bootstrap


def test_a_95_percent_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        sample = (generator.random(300) < 0.3).astype(float)
        low, high = bootstrap([sample], np.arange(300), resamples=300, seed=trial).interval(0)
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_mean_is_over_events_not_over_users() -> None:
    resampled = bootstrap([np.array([1.0, 1.0, 1.0, 0.0])], np.array([7, 7, 7, 9]))
    assert resampled.means[0] == 0.75


def test_events_of_one_user_are_drawn_together() -> None:
    hits = np.repeat((np.arange(100) % 2).astype(float), 50)
    together = bootstrap([hits], np.repeat(np.arange(100), 50)).interval(0)
    apart = bootstrap([hits], np.arange(5_000)).interval(0)
    assert together[1] - together[0] > 4 * (apart[1] - apart[0])


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    generator = np.random.default_rng(1)
    weak = (generator.random(1_000) < 0.3).astype(float)
    strong = np.maximum(weak, generator.random(1_000) < 0.03)
    resampled = bootstrap([strong, weak], np.arange(1_000))
    low, high = resampled.difference(0, 1)
    alone = resampled.interval(0)
    assert 0 < low < strong.mean() - weak.mean() < high
    assert high - low < (alone[1] - alone[0]) / 2


def test_a_model_does_not_differ_from_itself() -> None:
    values = np.random.default_rng(2).random(50)
    assert bootstrap([values, values], np.arange(50)).difference(0, 1) == (0.0, 0.0)


def test_blocks_of_draws_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(40)
    whole = bootstrap([values], np.arange(40), resamples=100).draws
    monkeypatch.setattr("recsys.evaluate.bootstrap._CELLS", 40 * 7)
    assert bootstrap([values], np.arange(40), resamples=100).draws == pytest.approx(whole)

"""Popularity counts, and old choices count less where a half-life is given."""

from __future__ import annotations

import numpy as np

from recsys.data.interactions import Interactions
from recsys.recipes.popularity import popularity

DAY = 86_400_000
TRAIN = Interactions(
    np.array([1, 2]), np.array([0, 2, 4]), np.array([0, 1, 0, 2], np.int32), np.array([0, 10, 5, 10]) * DAY
)


def test_it_counts_choices() -> None:
    assert popularity(TRAIN, 4).tolist() == [2, 1, 1, 0]


def test_a_choice_a_half_life_older_counts_half() -> None:
    assert np.allclose(popularity(TRAIN, 4, half_life_days=5), [0.25 + 0.5, 1, 1, 0])

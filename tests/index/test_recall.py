"""Recall is counted by score, and tuning finds the least effort that reaches the target."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.index.recall import least_effort, recall_at
from recsys.types import Floats


def table(*rows: list[float]) -> Floats:
    return np.array(rows, np.float32)


def test_recall_counts_a_row_tied_with_the_last_of_the_exact_answer() -> None:
    exact = table([3, 2, 1], [9, 8, 8])
    found = table([3, 1, 1], [9, 8, 7])
    assert recall_at(found, exact) == pytest.approx(5 / 6)


def test_recall_ignores_padding() -> None:
    assert recall_at(table([5, -np.inf]), table([5, -np.inf])) == 1.0
    assert recall_at(table([-np.inf, -np.inf]), table([5, -np.inf])) == 0.0
    assert recall_at(table([-np.inf]), table([-np.inf])) == 1.0


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 9, 31, 64])
def test_tuning_finds_the_least_effort(needed: int) -> None:
    asked: list[int] = []

    def reaches(probes: int) -> bool:
        asked.append(probes)
        return probes >= needed

    assert least_effort(reaches, 64) == needed
    assert len(asked) <= 13


@pytest.mark.parametrize(("needed", "found"), [(1, 10), (9, 10), (10, 10), (11, 11), (35, 35), (64, 64)])
def test_tuning_starts_at_what_takes_no_longer_than_less(needed: int, found: int) -> None:
    assert least_effort(lambda effort: effort >= needed, 64, 10) == found


def test_tuning_stops_at_the_most_that_is_allowed() -> None:
    assert least_effort(lambda probes: probes >= 50, 10) == 10
    assert least_effort(lambda probes: False, 1) == 1
    assert least_effort(lambda probes: False, 5, 100) == 5

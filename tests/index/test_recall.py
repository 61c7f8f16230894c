"""Recall is counted by score, and tuning finds the least number of lists that reaches the target."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from recsys.index.inverted_file import InvertedFile
from recsys.index.recall import recall_at, tune_probes
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


class Lists:
    """An inverted file that reaches recall 1 with `needed` probes, and counts what it was asked."""

    def __init__(self, needed: int) -> None:
        self.needed, self.probes, self.asked = needed, 0, list[int]()

    def search(self) -> Floats:
        self.asked.append(self.probes)
        return table([1.0 if self.probes >= self.needed else 0.0])


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 9, 31, 64])
def test_tuning_finds_the_least_number_of_probes(needed: int) -> None:
    lists = Lists(needed)
    tune_probes(cast(InvertedFile, cast(Any, lists)), lists.search, table([1.0]), 0.99, 64)
    assert lists.probes == needed
    assert len(lists.asked) <= 13


def test_tuning_stops_at_the_most_that_is_allowed() -> None:
    lists = Lists(50)
    tune_probes(cast(InvertedFile, cast(Any, lists)), lists.search, table([1.0]), 0.99, 10)
    assert lists.probes == 10
    assert max(lists.asked) == 10

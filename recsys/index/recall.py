"""How much of the exact answer an index finds, and how much it must read for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recsys.types import Floats


def recall_at(found: Floats, exact: Floats) -> float:
    """Share of the exact answer that was found, by score, so that a row tied with the last counts.

    Args:
        found: (B, k) exact scores of the index's answers, best first, padded with -inf.
        exact: the same of exact search.
    """
    wanted = np.isfinite(exact)
    if not wanted.any():
        return 1.0
    last = np.where(wanted, exact, np.inf).min(axis=1, keepdims=True)
    hits = np.minimum((found >= last).sum(axis=1), wanted.sum(axis=1))
    return float(hits.sum() / wanted.sum())


def least_effort(reaches: Callable[[int], bool], most: int, least: int = 1) -> int:
    """The least effort (lists read, nodes held) with which a search reaches its target; `most` when none does.

    Recall at a fixed effort depends entirely on the vectors, so it is found on them: doubled from `least` until
    the target is met, then halved in between.
    """
    low, high = 0, min(least, most)
    while not reaches(high):
        if high == most:
            return most
        low, high = high, min(2 * high, most)
    low = max(low, least - 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high

"""The measures of a report, as pure functions of ranks and of how often each item was recommended.

The rank of a target is the number of eligible candidates whose score is at least the target's, the target counted
once: among equals it takes the worst place, so that no model gains from how it breaks ties. A target that was not
found within the depth of a list has rank `MISSED`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ranks: TypeAlias = NDArray[np.int32]
"""(M,) rank of each test event's target, from 1; MISSED where it was not found."""
PerEvent: TypeAlias = NDArray[np.float64]
"""(M,) what one test event adds to a mean."""

MISSED: Final = np.iinfo(np.int32).max
"""Rank of a target that is not in a list."""
DEPTH: Final = 500
"""Longest list that is looked at; beyond it a target counts as missed, for every model alike."""
LIST_LENGTH: Final = 100
"""Length of the lists that coverage and popularity bias are taken of."""


def hit_rate(ranks: Ranks, k: int) -> PerEvent:
    """1 where the target is among the first k, else 0."""
    return (ranks <= k).astype(np.float64)


def ndcg(ranks: Ranks, k: int) -> PerEvent:
    """Normalised discounted cumulative gain with one relevant item: 1 / log2(1 + rank) within the first k, else 0."""
    return np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks.astype(np.float64)), 0.0)


def recall(ranks: Ranks, k: int) -> PerEvent:
    """Share of the relevant items among the first k: with one target an event, the same as the hit rate."""
    return hit_rate(ranks, k)


def mrr(ranks: Ranks, depth: int = DEPTH) -> PerEvent:
    """Reciprocal rank, 0 beyond `depth`."""
    return np.where(ranks <= depth, 1.0 / ranks.astype(np.float64), 0.0)


EVENT_METRICS: Final[Mapping[str, Callable[[Ranks], PerEvent]]] = MappingProxyType(
    {
        "hr@10": lambda ranks: hit_rate(ranks, 10),
        "ndcg@10": lambda ranks: ndcg(ranks, 10),
        "recall@50": lambda ranks: recall(ranks, 50),
        "recall@100": lambda ranks: recall(ranks, 100),
        "recall@500": lambda ranks: recall(ranks, 500),
        "mrr": mrr,
    }
)
"""The measures that are means over test events, under the names of report.json."""


def recall_curve(ranks: Ranks, ks: NDArray[np.int64]) -> NDArray[np.float64]:
    """(len(ks),) recall at each length of `ks`."""
    if len(ranks) == 0:
        return np.zeros(len(ks))
    return np.searchsorted(np.sort(ranks), ks, side="right") / len(ranks)


def coverage(recommended: NDArray[np.int64], eligible: int) -> float:
    """Share of the eligible items that at least one user was shown.

    Args:
        recommended: (N,) in how many lists each item was.
        eligible: how many items could have been.
    """
    return float(np.count_nonzero(recommended) / eligible) if eligible else 0.0


def gini(recommended: NDArray[np.int64]) -> float:
    """How unevenly recommendations fall on items: 0 = all alike, towards 1 = one item takes all.

    Args:
        recommended: (N,) in how many lists each eligible item was, zeros included.
    """
    total = int(recommended.sum())
    if total == 0:
        return 0.0
    ordered = np.sort(recommended).astype(np.float64)
    n = len(ordered)
    places = np.arange(1, n + 1)
    return float((2.0 * (places * ordered).sum()) / (n * total) - (n + 1) / n)


def popularity_percentile(recommended: NDArray[np.int64], popularity: NDArray[np.int64]) -> float:
    """Mean popularity percentile of a recommended item: .5 = no bias, 1 = only the most popular one.

    Items equally popular share the mean of their places.

    Args:
        recommended: (N,) in how many lists each item was.
        popularity: (N,) training events of each item.
    """
    total = int(recommended.sum())
    if total == 0:
        return 0.0
    ordered = np.sort(popularity)
    below = np.searchsorted(ordered, popularity, side="left")
    through = np.searchsorted(ordered, popularity, side="right")
    percentile = (below + through) / 2.0 / len(popularity)
    return float((percentile * recommended).sum() / total)


def share_of(recommended: NDArray[np.int64], marked: NDArray[np.bool_]) -> float:
    """Share of all recommendations that fall on marked items (new ones, for instance)."""
    total = int(recommended.sum())
    return float(recommended[marked].sum() / total) if total else 0.0

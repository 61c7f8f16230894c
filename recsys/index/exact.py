"""Exact search: blocks of a matrix product, what is not eligible masked, the top of each row kept.

Measured on one core against faiss.IndexFlatIP: alone and with 200 exclusions about the same for one
query, 4 to 8 times faster for a batch (FAISS leaves BLAS as soon as a selector is given), and the
vectors stay one memory-mapped file that all worker processes share.
"""

from __future__ import annotations

import numpy as np

from recsys.index.dots import lengths
from recsys.index.engine import is_member
from recsys.types import Bools, Floats, RaggedRows, Rows

SCORE_BLOCK_BYTES = 128 << 20
"""A block of scores is at most this large (or one query's, 4 bytes a row)."""

_FEW = 0.1
"""Below this share of allowed rows their vectors are gathered, rather than all multiplied and masked."""
_LOWEST = np.finfo(np.float32).min


class ExactSearch:
    """Engine that multiplies every eligible vector.

    Args:
        vectors: (N, d) float32, C-contiguous, finite; may be memory-mapped.
    """

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors
        longest = float(lengths(vectors, "vector").max(initial=0.0))
        self._rounding = longest * vectors.shape[1] * 2.0**-22

    def propose(self, queries: Floats, k: int, allowed: Bools | None, excluded: RaggedRows | None) -> list[Rows]:
        """See `Engine.propose`; the answer certainly holds the best k by exact score."""
        if allowed is not None:
            few = np.flatnonzero(allowed).astype(np.int32)
            size = len(few) * self._vectors.itemsize * self._vectors.shape[1]
            if len(few) <= _FEW * len(allowed) and size <= SCORE_BLOCK_BYTES:
                return self._among(few, queries, k, excluded)
        slack = self._slack(queries)
        proposals: list[Rows] = []
        for start, stop in _blocks(len(queries), len(self._vectors)):
            scores = queries[start:stop] @ self._vectors.T
            if allowed is not None:
                np.copyto(scores, -np.inf, where=~allowed)
            for b in range(start, stop):
                row = scores[b - start]
                if excluded is not None:
                    row[excluded[b]] = -np.inf
                proposals.append(_top(row, k, slack[b]))
        return proposals

    def _among(self, rows: Rows, queries: Floats, k: int, excluded: RaggedRows | None) -> list[Rows]:
        """Searches the given rows alone."""
        vectors = self._vectors.take(rows, axis=0)
        slack = self._slack(queries)
        proposals: list[Rows] = []
        for start, stop in _blocks(len(queries), len(rows)):
            scores = queries[start:stop] @ vectors.T
            for b in range(start, stop):
                row = scores[b - start]
                if excluded is not None:
                    row[is_member(rows, excluded[b])] = -np.inf
                proposals.append(rows[_top(row, k, slack[b])])
        return proposals

    def _slack(self, queries: Floats) -> list[float]:
        """Twice the largest difference that rounding can make between two orders of summation (Higham, §3.1)."""
        slack: list[float] = (lengths(queries, "query") * self._rounding).tolist()
        return slack


def _blocks(queries: int, rows: int) -> list[tuple[int, int]]:
    """(start, stop) of blocks of queries whose scores fit SCORE_BLOCK_BYTES."""
    step = max(1, SCORE_BLOCK_BYTES // (4 * max(1, rows)))
    return [(start, min(start + step, queries)) for start in range(0, queries, step)]


def _top(scores: Floats, k: int, slack: float) -> Rows:
    """Rows, ascending, whose exact score may be among the k best; -inf is never one of them."""
    if k >= len(scores):
        return np.flatnonzero(scores > -np.inf).astype(np.int32)
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    rows = np.flatnonzero(scores >= max(kth - slack, _LOWEST)).astype(np.int32)
    if len(rows) > 4 * k + 1024:
        rows = _without_most_ties(rows, scores[rows], float(kth), slack, 4 * k + 1024)
    return rows


def _without_most_ties(rows: Rows, scores: Floats, kth: float, slack: float, limit: int) -> Rows:
    """Keeps what is surely better than the k-th and, of the thousands equal to it, the first by row.

    Without a bound a query of zeros would have the whole catalogue scored a second time.
    """
    surely = rows[scores > kth + slack]
    tied = rows[scores <= kth + slack][: limit - len(surely)]
    return np.sort(np.concatenate((surely, tied)))

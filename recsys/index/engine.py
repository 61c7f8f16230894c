"""The seam inside the index: an engine proposes rows, the index scores them exactly and orders them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.types import Bools, Floats, Offsets, RaggedRows, Rows

_TRUE: Final = np.ones(1, np.bool_)
_Integer = TypeVar("_Integer", bound=np.integer[Any])


class Engine(Protocol):
    """One way of finding the rows that may be among the best k."""

    def propose(
        self,
        queries: Floats,
        k: int,
        allowed: Bools | None,
        excluded: RaggedRows | None,
        groups: Offsets | None = None,
    ) -> list[Rows]:
        """Eligible rows for each group of queries, ascending, without repeats: a superset of the best k of each query.

        At least k of them whenever k are eligible.

        Args:
            queries: (B, d), finite, already scaled as the metric asks.
            k: at least 1.
            allowed: (N,) which rows any query may have; None = all.
            excluded: G lists of rows that the queries of group g may not have.
            groups: (G+1,) offsets: group g is queries groups[g]…groups[g + 1] - 1, at least one; None = each query is
                a group of its own.
        """
        ...


class ProcessorEngine(Engine, Protocol):
    """An engine on the processor that can tell a GPU what to search."""

    def device_index(self) -> tuple[Any, int]:
        """The FAISS index that a GPU gets a copy of, holding row r under id r, and the lists that a search reads."""
        ...

    def laid(self, queries: Floats) -> Floats:
        """(B, e) queries in the space that FAISS searches."""
        ...

    def fetched(self, k: int) -> int:
        """Rows to have FAISS find for k answers."""
        ...


class Members(threading.local):
    """Tells which rows are on a list of excluded ones: a table of all rows, one a thread, faster than any search.

    Args:
        count: rows are below it.
    """

    def __init__(self, count: int) -> None:
        self._marked = np.zeros(count, np.bool_)

    def among(self, rows: Rows, members: Rows) -> Bools:
        """Which of the rows, in any shape and possibly -1, are on the list."""
        if not len(members):
            return np.zeros(rows.shape, np.bool_)
        self._marked[members] = True
        found = self._marked[rows]
        self._marked[members] = False
        return found


def is_member(values: NDArray[_Integer], members: NDArray[_Integer]) -> Bools:
    """Which of `values` occur in `members`, as np.isin but several times faster for hundreds of each."""
    if not len(members):
        return np.zeros(len(values), np.bool_)
    ordered = np.sort(members)
    matches: Bools = ordered.take(ordered.searchsorted(values), mode="clip") == values
    return matches


def bounds_of(queries: Floats, groups: Offsets | None) -> list[tuple[int, int]]:
    """(start, stop) of the queries of each group."""
    return list(pairwise(range(len(queries) + 1) if groups is None else groups.tolist()))


def united(proposals: list[Rows], groups: Offsets | None) -> list[Rows]:
    """One proposal for each group, out of one for each query."""
    if groups is None:
        return proposals
    return [union(proposals[start:stop]) for start, stop in pairwise(groups.tolist())]


def union(lists: Sequence[Rows]) -> Rows:
    """Ascending rows, each once, that are in any of at least one ascending list without repeats."""
    return lists[0] if len(lists) == 1 else distinct(np.concatenate(lists))


def distinct(rows: NDArray[_Integer]) -> NDArray[_Integer]:
    """The rows, or other numbers, ascending, each once."""
    rows = np.sort(rows)
    return rows[np.concatenate((_TRUE, rows[1:] != rows[:-1]))] if len(rows) else rows


def longest(lists: RaggedRows | None) -> int:
    """Rows in the longest list; 0 for none."""
    if lists is None:
        return 0
    return len(lists.values) if len(lists) == 1 else int(lists.lengths.max(initial=0))


def with_margin(k: int) -> int:
    """More than k, so that rounding to half precision costs no row of the best k."""
    return k + k // 8 + 8

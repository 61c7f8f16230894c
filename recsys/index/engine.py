"""The seam inside the index: an engine proposes rows, the index scores them exactly and orders them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np

from recsys.types import Bools, Floats, RaggedRows, Rows

_TRUE: Final = np.ones(1, np.bool_)


class Engine(Protocol):
    """One way of finding the rows that may be among the best k."""

    def propose(self, queries: Floats, k: int, allowed: Bools | None, excluded: RaggedRows | None) -> list[Rows]:
        """Eligible rows for each of B queries, ascending, without repeats: a superset of the best k.

        At least k of them whenever k are eligible.

        Args:
            queries: (B, d), finite, already scaled as the metric asks.
            k: at least 1.
            allowed: (N,) which rows any query may have; None = all.
            excluded: rows that query b may not have.
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


def is_member(values: Rows, members: Rows) -> Bools:
    """Which of `values` occur in `members`, as np.isin but several times faster for hundreds of each."""
    if not len(members):
        return np.zeros(len(values), np.bool_)
    ordered = np.sort(members)
    matches: Bools = ordered.take(ordered.searchsorted(values), mode="clip") == values
    return matches


def union(lists: Sequence[Rows]) -> Rows:
    """Ascending rows, each once, that are in any of at least one ascending list without repeats."""
    if len(lists) == 1:
        return lists[0]
    rows = np.concatenate(lists)
    rows.sort()
    return rows[np.concatenate((_TRUE, rows[1:] != rows[:-1]))] if len(rows) else rows


def longest(lists: RaggedRows | None) -> int:
    """Rows in the longest list; 0 for none."""
    if lists is None:
        return 0
    return len(lists.values) if len(lists) == 1 else int(lists.lengths.max(initial=0))


def with_margin(k: int) -> int:
    """More than k, so that rounding to half precision costs no row of the best k."""
    return k + k // 8 + 8

"""The seam inside the index: an engine proposes rows, the index scores them exactly and orders them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recsys.types import Bools, Floats, RaggedRows, Rows


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


def is_member(values: Rows, members: Rows) -> Bools:
    """Which of `values` occur in `members`, as np.isin but several times faster for hundreds of each."""
    if not len(members):
        return np.zeros(len(values), np.bool_)
    ordered = np.sort(members)
    found = ordered.searchsorted(values)
    found[found == len(ordered)] = 0
    matches: Bools = ordered[found] == values
    return matches

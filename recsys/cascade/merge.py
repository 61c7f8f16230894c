"""Merging what several channels found into one list a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from recsys.types import Bools, Candidates, Floats, Offsets, offsets_of


class Merge(Protocol):
    """A rule that makes one list of several; a learned rule takes the same place."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def merge(self, lists: Sequence[Candidates], k: int) -> Candidates:
        """The k best of all lists for each user, every row once.

        Args:
            lists: one for each channel asked for, in order, over the same B users; bit i of an
                answer's mask says that list i held the row.
            k: rows a user.
        """
        ...


class ReciprocalRankFusion:
    """A row's score is the sum of 1 / (constant + rank) over the lists that hold it, ranks from 1.

    Cormack, Clarke, Büttcher: "Reciprocal rank fusion outperforms Condorcet and individual rank
    learning methods" (SIGIR 2009). It needs no scores that compare across channels. Equal sums: the
    row of the earlier list first, then the better rank.
    """

    name = "reciprocal_rank_fusion"

    def __init__(self, constant: float = 60.0) -> None:
        self._constant = constant

    def merge(self, lists: Sequence[Candidates], k: int) -> Candidates:
        """See `Merge.merge`."""
        users = len(lists[0])
        keys = np.concatenate([_user_of(c) << 32 | c.rows for c in lists])
        shares = np.concatenate([self._shares(c) for c in lists])
        bits = np.repeat(
            np.left_shift(np.uint32(1), np.arange(len(lists), dtype=np.uint32)), [len(c.rows) for c in lists]
        )
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        firsts = np.flatnonzero(np.concatenate((np.ones(min(1, len(keys)), np.bool_), ordered[1:] != ordered[:-1])))
        if not len(firsts):
            return Candidates.empty(users)
        sums = np.add.reduceat(shares[order], firsts)
        masks = np.bitwise_or.reduceat(bits[order], firsts)
        keys = ordered[firsts]
        best = np.lexsort((order[firsts], -sums, keys >> 32))
        counts = np.bincount(keys >> 32, minlength=users)
        best = best[_first_k(counts, k)]
        return Candidates(
            (keys[best] & 0xFFFFFFFF).astype(np.int32),
            sums[best],
            masks[best],
            offsets_of(np.minimum(counts, k)),
        )

    def _shares(self, candidates: Candidates) -> Floats:
        """(T,) what each candidate's rank is worth."""
        rank = _rank(candidates.counts)
        shares: Floats = (1.0 / (self._constant + 1.0 + rank)).astype(np.float32)
        return shares


def _user_of(candidates: Candidates) -> Offsets:
    """(T,) the user each candidate belongs to."""
    return np.repeat(np.arange(len(candidates), dtype=np.int64), candidates.counts)


def _rank(counts: Offsets) -> Offsets:
    """0, 1, 2… within each of the consecutive groups of the given sizes."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts)


def _first_k(counts: Offsets, k: int) -> Bools:
    """Which elements are among the first k of their group."""
    first: Bools = _rank(counts) < k
    return first

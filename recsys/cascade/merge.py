"""Merging what several channels found into one list a user."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.types import Candidates, Offsets, offsets_of

_TRUE = np.ones(1, np.bool_)


class Merge(Protocol):
    """A rule that makes one list of several; a learned rule takes the same place."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def merge(self, lists: Mapping[str, Candidates], k: int) -> Candidates:
        """The k best of all lists for each user, every row once.

        Args:
            lists: by the name of the channel, in the order asked for, over the same B users; bit i
                of an answer's mask says that the i-th list held the row.
            k: rows a user.
        """
        ...


class ReciprocalRankFusion:
    """A row's score is the sum of weight / (constant + rank) over the lists that hold it, ranks from 1.

    Cormack, Clarke, Büttcher: "Reciprocal rank fusion outperforms Condorcet and individual rank
    learning methods" (SIGIR 2009), there with equal weights. It needs no scores that compare across
    channels. Equal sums: the row of the earlier list first, then the better rank.

    Args:
        constant: the larger, the less the first ranks count beside the later ones.
        weights: by channel, above 0; 1 where a channel is not named.
    """

    name = "reciprocal_rank_fusion"

    def __init__(self, constant: float = 60.0, weights: Mapping[str, float] = MappingProxyType({})) -> None:
        self._constant = constant
        self._weights = weights

    def merge(self, lists: Mapping[str, Candidates], k: int) -> Candidates:
        """See `Merge.merge`."""
        found = list(lists.values())
        keys = np.concatenate([_user_of(c) << 32 | c.rows for c in found])
        if not len(keys):
            return Candidates.empty(len(found[0]))
        shares = np.concatenate([self._shares(name, c) for name, c in lists.items()])
        bits = np.concatenate([np.full(len(c.rows), 1 << i, np.uint32) for i, c in enumerate(found)])
        by_row = np.argsort(keys)
        ordered = keys[by_row]
        firsts = np.flatnonzero(np.concatenate((_TRUE, ordered[1:] != ordered[:-1])))
        sums = np.add.reduceat(shares[by_row], firsts).astype(np.float32)
        earliest = np.minimum.reduceat(by_row, firsts)
        keys = ordered[firsts]
        # A positive float32 sorts as its bits do: one integer holds (sum descending, earliest ascending).
        rank = (-sums.view(np.int32).astype(np.int64) << 32) | earliest
        edges = keys.searchsorted(np.arange(len(found[0]) + 1, dtype=np.int64) << 32)
        parts = [np.argsort(rank[i:j])[:k] + i for i, j in pairwise(edges)]
        best = np.concatenate(parts)
        return Candidates(
            (keys[best] & 0xFFFFFFFF).astype(np.int32),
            sums[best],
            np.bitwise_or.reduceat(bits[by_row], firsts)[best],
            offsets_of([len(part) for part in parts]),
        )

    def _shares(self, name: str, candidates: Candidates) -> NDArray[np.float64]:
        """(T,) what each candidate of a list adds to the score of its row."""
        places = self._constant + 1.0 + _rank(candidates.counts)
        return np.float64(self._weights.get(name, 1.0)) / places


def _user_of(candidates: Candidates) -> Offsets:
    """(T,) the user each candidate belongs to."""
    return np.repeat(np.arange(len(candidates), dtype=np.int64), candidates.counts)


def _rank(counts: Offsets) -> Offsets:
    """0, 1, 2… within each of the consecutive groups of the given sizes."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts)

"""Merging what several channels found into one list a user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.types import Candidates, Floats, Masks, Rows, offsets_of

_TRUE: Final = np.ones(1, np.bool_)
_LOW: Final = 0xFFFFFFFF


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
        shares = [self._shares(name, int(c.counts.max(initial=0))) for name, c in lists.items()]
        bits = [np.full(len(share), 1 << i, np.uint32) for i, share in enumerate(shares)]
        merged = [_fused([c.of(b)[0] for c in found], shares, bits, k) for b in range(len(found[0]))]
        if not merged:
            return Candidates.empty(0)
        rows, sums, masks = zip(*merged, strict=True)
        return Candidates(
            np.concatenate(rows), np.concatenate(sums), np.concatenate(masks), offsets_of([len(part) for part in rows])
        )

    def _shares(self, name: str, places: int) -> NDArray[np.float64]:
        """What each place of a list adds to the score of its row."""
        ranks = self._constant + 1.0 + np.arange(places, dtype=np.float64)
        return np.float64(self._weights.get(name, 1.0)) / ranks


def _fused(
    lists: Sequence[Rows], shares: Sequence[NDArray[np.float64]], bits: Sequence[Masks], k: int
) -> tuple[Rows, Floats, Masks]:
    """The k best rows of one user's lists, their sums and masks.

    An integer of 64 bits holds what is sorted by and, in its low half, the position among all candidates:
    sorting values is several times as fast as sorting indices.
    """
    rows = np.concatenate(lists)
    if not len(rows):
        return rows, np.empty(0, np.float32), np.empty(0, np.uint32)
    share = np.concatenate([all_of[: len(part)] for all_of, part in zip(shares, lists, strict=True)])
    mask = np.concatenate([all_of[: len(part)] for all_of, part in zip(bits, lists, strict=True)])
    keys = rows.astype(np.int64) << 32 | np.arange(len(rows))
    keys.sort()
    at, row = keys & _LOW, keys >> 32
    firsts = np.flatnonzero(np.concatenate((_TRUE, row[1:] != row[:-1])))
    earliest = at[firsts]
    sums = np.add.reduceat(share[at], firsts).astype(np.float32)
    mask[earliest] = np.bitwise_or.reduceat(mask[at], firsts)
    # A positive float32 sorts as its bits do: here the sum descending, then the position ascending.
    best = -sums.view(np.int32).astype(np.int64) << 32 | earliest
    best.sort()
    best = best[:k]
    earliest = best & _LOW
    return rows[earliest], (-(best >> 32)).astype(np.int32).view(np.float32), mask[earliest]

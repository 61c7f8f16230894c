"""Merging what several channels found into one list a user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from recsys.config import Config
from recsys.types import Candidates, Floats, Masks, Rows, offsets_of

_TRUE: Final = np.ones(1, np.bool_)
_LOW: Final = 0xFFFFFFFF
_RECIPROCAL: Final = 60.0
_TABLE: Final = 512
"""Places that a table of shares has at least."""


class Merge(Protocol):
    """A rule that makes one list of several."""

    def merge(self, lists: Mapping[str, Candidates], k: int) -> Candidates:
        """The k best of all lists for each user, every row once.

        Args:
            lists: by the name of the channel, in the order asked for, over the same B users; bit i
                of an answer's mask says that the i-th list held the row.
            k: rows a user.
        """
        ...


class RankCurves(Config):
    """What a place in each channel's list says for the row that stands there, learned on validation.

    Attributes:
        version: of these fields.
        places: ascending from 1, those that values are given for.
        log_odds: channel → what each of `places` adds to the log-odds of being chosen next, beside a row that the
            list does not hold: never below 0, never rising. Between two places linear in the logarithm of the place.
        leader: the channel whose first rows come first, in its own order; None when there is no lead.
        lead: how many of them.
    """

    version: Literal[1] = 1
    places: tuple[int, ...] = Field(min_length=2)
    log_odds: dict[str, tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]] = Field(min_length=1)
    leader: str | None = None
    lead: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.places[0] != 1 or any(low >= high for low, high in pairwise(self.places)):
            raise ValueError(f"places {self.places} must ascend from 1")
        for channel, values in self.log_odds.items():
            if len(values) != len(self.places):
                raise ValueError(f"channel {channel!r} has {len(values)} log-odds for {len(self.places)} places")
            if any(low < high for low, high in pairwise(values)):
                raise ValueError(f"the log-odds of channel {channel!r} rise with the place: {values}")
        if self.lead and self.leader not in self.log_odds:
            raise ValueError(f"leader {self.leader!r} is no channel of the rule: {', '.join(self.log_odds)}")
        return self


class RankFusion:
    """A row's score is the sum of what the lists that hold it say for it, each by the row's place in the list.

    With curves a place says its log-odds, so that independent evidence adds up as in a logistic regression, and
    scores of different scales never meet. A hundredth of the reciprocal rank is added, which decides where curves are
    flat: a list that says nothing still fills up, in its own order, what the others leave empty.

    Without curves a place says 1 / (60 + place): Cormack, Clarke, Büttcher, "Reciprocal rank fusion outperforms
    Condorcet and individual rank learning methods" (SIGIR 2009).

    Equal sums: the row of the earlier list first, then the better place.

    Args:
        curves: of the channels; None where nothing was learned. A channel that they do not name only fills up.
    """

    def __init__(self, curves: RankCurves | None = None) -> None:
        self._curves = curves
        self._tables: dict[str, NDArray[np.float64]] = {}

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

    def _shares(self, channel: str, length: int) -> NDArray[np.float64]:
        """What each of the first `length` places of a list adds to the score of its row."""
        table = self._tables.get(channel)
        if table is None or len(table) < length:
            table = self._tables[channel] = self._table(channel, max(length, _TABLE))
        return table[:length]

    def _table(self, channel: str, length: int) -> NDArray[np.float64]:
        places = np.arange(1, length + 1, dtype=np.float64)
        if self._curves is None:
            return _reciprocal(places)
        shares = _reciprocal(places) / 100
        values = self._curves.log_odds.get(channel)
        if values is not None:
            shares += np.interp(np.log(places), np.log(self._curves.places), values)
        if channel == self._curves.leader:
            lead = min(self._curves.lead, length)  # from place to place more than all lists together say for any row
            step = 1 + sum(curve[0] for curve in self._curves.log_odds.values())
            shares[:lead] += step * np.arange(lead, 0, -1)
        return shares


def _reciprocal(places: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (_RECIPROCAL + places)


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

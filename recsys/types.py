"""The values that flow through the system: users in, candidates and scores out, all as arrays.

Items are addressed by *row* (0…N-1 of the bundle's catalogue) inside, by *id* at the edges.
A batch of B users is one struct of arrays with offsets, never a list of objects.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.int32]
"""Catalogue rows."""
Ids: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]
Masks: TypeAlias = NDArray[np.uint32]
Offsets: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

MAX_CHANNELS = 32
"""A channel mask is 32 bits wide, here and on the wire."""


def offsets_of(lengths: Sequence[int] | NDArray[np.integer[Any]]) -> Offsets:
    """Turns B lengths into B+1 offsets."""
    if len(lengths) == 1:  # one user of a request: a quarter of the time
        return np.array((0, lengths[0]), np.int64)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


@dataclass(frozen=True, slots=True, eq=False)
class RaggedRows:
    """B lists of catalogue rows: list b is `values[offsets[b]:offsets[b + 1]]`.

    Shapes: values (T,) int32; offsets (B+1,) int64, offsets[0] = 0, offsets[B] = T.
    """

    values: Rows
    offsets: Offsets

    @classmethod
    def of(cls, lists: Iterable[Sequence[int] | Rows]) -> RaggedRows:
        """Builds from B lists of rows."""
        arrays = [np.asarray(rows, np.int32) for rows in lists]
        values = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
        return cls(values.astype(np.int32, copy=False), offsets_of([len(a) for a in arrays]))

    @classmethod
    def empty(cls, size: int) -> RaggedRows:
        """B empty lists."""
        return cls(np.empty(0, np.int32), np.zeros(size + 1, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, b: int) -> Rows:
        return self.values[self.offsets[b] : self.offsets[b + 1]]

    @property
    def lengths(self) -> Offsets:
        """(B,) length of each list."""
        return self.offsets[1:] - self.offsets[:-1]


@dataclass(frozen=True, slots=True, eq=False)
class Users:
    """B users as a retriever or scorer sees them; B = 1 online, about 1,000 offline.

    Attributes:
        ids: (B,) int64; meaningless where `known` is false (an anonymous caller).
        known: (B,) whether an id was given.
        attributes: raw attribute columns of the users, each a sequence of B values, None = missing.
        history: rows the user clicked or converted, oldest to newest, only items of the catalogue.
        excluded: rows that must not be returned (seen and explicitly excluded), per user, any order.
    """

    ids: Ids
    known: Bools
    attributes: Mapping[str, Sequence[Any]]
    history: RaggedRows
    excluded: RaggedRows

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> Users:
        """Users start…stop-1 as a batch of their own."""

        def cut(rows: RaggedRows) -> RaggedRows:
            low, high = rows.offsets[start], rows.offsets[stop]
            return RaggedRows(rows.values[low:high], rows.offsets[start : stop + 1] - low)

        return Users(
            self.ids[start:stop],
            self.known[start:stop],
            {name: column[start:stop] for name, column in self.attributes.items()},
            cut(self.history),
            cut(self.excluded),
        )


@dataclass(frozen=True, slots=True, eq=False)
class RowMask:
    """The rows of a catalogue that may be returned, the same for the whole batch.

    Shape: allowed (N,) bool.
    """

    allowed: Bools

    def __and__(self, other: RowMask) -> RowMask:
        return RowMask(self.allowed & other.allowed)

    @property
    def count(self) -> int:
        """How many rows are allowed."""
        return int(np.count_nonzero(self.allowed))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What was retrieved for B users, best first within each user.

    Shapes: rows (T,) int32, scores (T,) float32, channels (T,) uint32 (bit i = the i-th channel
    of the answer), offsets (B+1,) int64. `complete` is false where a search ran out of time and these are
    the best of what it had reached.
    """

    rows: Rows
    scores: Floats
    channels: Masks
    offsets: Offsets
    complete: bool = True

    @classmethod
    def empty(cls, size: int) -> Candidates:
        """No candidate for any of B users."""
        return cls(np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.uint32), np.zeros(size + 1, np.int64))

    @classmethod
    def from_matrix(cls, rows: NDArray[np.integer[Any]], scores: Floats) -> Candidates:
        """From the (B, k) answer of a search, best first, where row -1 pads a short list.

        Channel masks are all 1: a channel alone is the 0-th of its own answer.
        """
        keep = rows >= 0
        if keep.all():  # the common case, without the price of picking
            counts = np.full(len(rows), rows.shape[1], np.int64)
            flat, best = rows.ravel(), scores.ravel()
        else:
            counts = np.count_nonzero(keep, axis=1)
            flat, best = rows[keep], scores[keep]
        return cls(
            flat.astype(np.int32, copy=False),
            best.astype(np.float32, copy=False),
            np.ones(len(flat), np.uint32),
            offsets_of(counts),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, b: int) -> tuple[Rows, Floats]:
        """Rows and scores of user b, best first."""
        part = slice(self.offsets[b], self.offsets[b + 1])
        return self.rows[part], self.scores[part]

    @property
    def counts(self) -> Offsets:
        """(B,) number of candidates of each user."""
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """One score a candidate, aligned with `Candidates.rows`.

    `p_click` and `p_conversion` are there only when the model is calibrated for them.
    Shapes: each (T,) float32.
    """

    score: Floats
    p_click: Floats | None = None
    p_conversion: Floats | None = None


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock after which an answer is of no use."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - time.monotonic()

    @property
    def passed(self) -> bool:
        """Whether nobody waits any more."""
        return self.remaining <= 0

"""Ragged lists to matrices: attribute lists padded on the right, histories on the left."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.vocabulary import Codes
from recsys.types import Offsets


def pad_right(codes: Codes, lengths: NDArray[np.integer], width: int) -> Codes:
    """(B, width) from B lists of at most `width` codes, laid end to end in `codes`."""
    out = np.zeros((len(lengths), width), np.int32)
    out[np.arange(width) < np.asarray(lengths)[:, None]] = codes
    return out


def newest(values: NDArray[np.integer], offsets: Offsets, width: int) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
    """The last `width` values of each of B lists, and where in a left-padded (B, width) they stand.

    Args:
        values: (T,) the lists end to end.
        offsets: (B+1,) where they begin and end.
        width: columns of the matrix.

    Returns:
        The kept values in order (S,), and the mask (B, width) with S true cells.
    """
    place = offsets[1:, None] - np.arange(width, 0, -1)
    there = place >= offsets[:-1, None]
    return values[place[there]], there


def ages(there: NDArray[np.bool_]) -> Codes:
    """(B, L) age of each cell of a left-padded history: 1 = newest, 0 = padding."""
    return np.where(there, np.arange(there.shape[1], 0, -1, dtype=np.int32), np.int32(0))

"""The order of scores, best first: the one rule for ties that index, channels and cascade share."""

from __future__ import annotations

from typing import Final

import numpy as np

from recsys.types import Floats, Offsets

_LAST: Final = np.int32(0x7FFFFFFF)
_POSITION: Final = 0xFFFFFFFF


def best_first(scores: Floats) -> Offsets:
    """(n,) positions by (score descending, position ascending); NaN come last.

    What a stable argsort of -scores gives, in a quarter of the time: one integer of 64 bits holds a score,
    as bits that sort as it does, and its position, and to sort values the processor has vector instructions.
    (An argsort of random scores also guesses every other branch wrong, which a benchmark that sorts one array
    over and over does not show.)
    """
    keys = np.subtract(np.float32(0), scores, dtype=np.float32).view(np.int32)  # 0 - x, so that -0 and 0 are equal
    keys ^= (keys >> 31) & _LAST  # the more negative a float32, the larger its bits
    keys[np.isnan(scores)] = _LAST
    packed = keys.astype(np.int64) << 32 | np.arange(len(keys))
    packed.sort()
    packed &= _POSITION
    return packed

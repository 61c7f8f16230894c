"""Random numbers by address: a draw depends on the seed and on what is asked for, never on what was drawn before."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


class Stream(IntEnum):
    """What random numbers are for: each use has a stream of its own, so that no two ever share one."""

    TREE = 0
    ITEMS = 1
    USERS = 2
    SESSIONS = 3
    INTEREST_LIFE = 4
    INTEREST_CLUSTER = 5
    INTEREST_TASTE = 6
    INTEREST_WEIGHT = 7
    INTEREST_WAVE = 8
    ACTIVE_LIFE = 9
    ACTIVE_CHOICE = 10


def generator(seed: int, stream: Stream, block: int = 0, hour: int = 0) -> np.random.Generator:
    """A generator of its own for (stream, block of users, hour): Philox, whose counter starts at that address.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    return np.random.Generator(np.random.Philox(key=[seed, int(stream)], counter=[0, 0, block, hour]))


def uniform(seed: int, stream: Stream, *address: NDArray[Any] | int) -> NDArray[np.float64]:
    """One number in [0, 1) for every address, the coordinates broadcast against each other.

    Each coordinate is mixed in by the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    state = _mix(_mix(np.array([seed], np.uint64)) + np.array([int(stream)], np.uint64) * _GOLDEN)
    for coordinate in address:
        state = _mix(state + np.asarray(coordinate, np.int64).view(np.uint64) * _GOLDEN)
    drawn: NDArray[np.float64] = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))

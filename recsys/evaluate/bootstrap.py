"""95 % intervals by a paired bootstrap over users: one resample of users serves every model and measure at once.

Events of one user are not independent, so users are drawn, not events (a cluster bootstrap; Efron & Tibshirani 1993).
The same draws for all models make the interval of a difference as narrow as the pairing allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
LEVEL = 0.95
_CELLS = 8_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """Means of C columns over the test events, and under R resamples of the users.

    Attributes:
        means: (C,) the means over the events as they are.
        draws: (R, C) the means under each resample.
    """

    means: NDArray[np.float64]
    draws: NDArray[np.float64]

    def interval(self, column: int) -> tuple[float, float]:
        """95 % percentile interval of one column's mean."""
        return _percentiles(self.draws[:, column])

    def difference(self, column: int, other: int) -> tuple[float, float]:
        """95 % percentile interval of the paired difference `column` less `other`."""
        return _percentiles(self.draws[:, column] - self.draws[:, other])


def bootstrap(
    columns: Iterable[NDArray[np.float64]], users: NDArray[np.integer[Any]], resamples: int = RESAMPLES, seed: int = 0
) -> Resampled:
    """Resamples users with replacement and takes the mean over their events.

    Draws are made in blocks of at most 8M cells, so memory is bounded by users × columns.

    Args:
        columns: C arrays of shape (M,), one a measure of a model: what each test event adds to a mean.
        users: (M,) the user of each event; M ≥ 1.
        resamples: number of draws.
        seed: of the draws; the same seed gives the same resamples, hence paired intervals.
    """
    _, index = np.unique(users, return_inverse=True)
    counts = np.bincount(index).astype(np.float64)
    sums = np.stack([np.bincount(index, column, len(counts)) for column in columns], axis=1)
    generator = np.random.default_rng(seed)
    block = max(1, _CELLS // len(counts))
    draws = np.empty((resamples, sums.shape[1]))
    for start in range(0, resamples, block):
        weights = _weights(generator, min(block, resamples - start), len(counts))
        draws[start : start + len(weights)] = (weights @ sums) / (weights @ counts)[:, None]
    return Resampled(sums.sum(axis=0) / counts.sum(), draws)


def _weights(generator: np.random.Generator, resamples: int, n: int) -> NDArray[np.float64]:
    """(resamples, n) how often each of n users is drawn when n are drawn with replacement."""
    drawn = generator.integers(0, n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def _percentiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1.0 - LEVEL) / 2.0 * 100.0
    low, high = np.percentile(draws, [tail, 100.0 - tail])
    return float(low), float(high)

"""Buckets of numbers: edges from quantiles, codes by `searchsorted(left)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.vocabulary import FIRST, MISSING, Codes


def quantile_edges(values: NDArray[np.float64], buckets: int) -> tuple[float, ...]:
    """At most buckets - 1 distinct edges, each a value of the data, that part it evenly.

    NaN and infinities are left out. The largest value is no edge: nothing would lie above it.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return ()
    shares = np.arange(1, buckets) / buckets
    edges = np.unique(np.quantile(finite, shares, method="inverted_cdf"))
    return tuple(edges[edges < finite.max()].tolist())


def bucket_codes(values: NDArray[np.floating[Any]], edges: Sequence[float] | NDArray[np.float64]) -> Codes:
    """Codes of numbers, same shape as `values`: 2 + bucket; 0 where it is NaN.

    -inf falls in the first bucket, +inf in the last.
    """
    codes = np.searchsorted(np.asarray(edges, np.float64), values, side="left").astype(np.int32) + np.int32(FIRST)
    return np.where(np.isnan(values), np.int32(MISSING), codes)


def cardinality_of_edges(edges: Sequence[float]) -> int:
    """Rows of an embedding table: one more bucket than edges, missing and (never used) unseen."""
    return len(edges) + 1 + FIRST

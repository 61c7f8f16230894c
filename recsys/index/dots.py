"""Exact scores in one order of summation, and the checks that vectors pass before they are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataError
from recsys.index.config import Metric
from recsys.types import Floats

LONGEST = np.float32(2.0**60)
"""Longer vectors are refused: the squared distance of two such would not be a float32 any more."""


def dots(vectors: Floats, query: Floats) -> Floats:
    """(M,) dot products of (M, d) vectors with one (d,) query.

    The sum runs along each row alone, so a row's score has the same bits whatever stands beside it,
    which a matrix product does not promise: batch of one, batch of a thousand and re-scoring agree.
    """
    scores: Floats = np.einsum("md,d->m", vectors, query)
    return scores


def exact_scores(metric: Metric, vectors: Floats, query: Floats) -> Floats:
    """(M,) scores, larger is better, of (M, d) vectors for one (d,) query: dot products, or -‖vector - query‖²."""
    if metric != "l2":
        return dots(vectors, query)
    apart = vectors - query
    return -dots_of_rows(apart, apart)


def dots_of_rows(one: Floats, other: Floats) -> Floats:
    """(M,) dot products of the rows of two (M, d) matrices, row by row."""
    products: Floats = np.einsum("md,md->m", one, other)
    return products


def norms(vectors: Floats) -> Floats:
    """(M,) Euclidean lengths of (M, d) vectors, whatever they hold."""
    result: Floats = np.sqrt(dots_of_rows(vectors, vectors))
    return result


def lengths(vectors: Floats, what: str) -> Floats:
    """(M,) Euclidean lengths of (M, d) vectors that are fit to be compared.

    Raises:
        DataError: for the first vector that holds NaN or infinity, or is longer than LONGEST.
    """
    result = norms(vectors)
    right = result <= LONGEST
    if not right.all():
        first = int(np.flatnonzero(~right)[0])
        raise DataError(
            f"{what} {first} is not a finite vector of a length up to {LONGEST:.3g}: {vectors[first, :8]}; "
            "find out where it was made"
        )
    return result


def unit(vectors: Floats, norms: Floats) -> Floats:
    """Vectors scaled to length 1; one of length 0 stays 0."""
    scale = np.where(norms > 0, norms, np.float32(1))
    return np.divide(vectors, scale[:, None], dtype=np.float32)


def as_matrix(vectors: NDArray[Any], what: str) -> Floats:
    """`vectors` as a C-contiguous (M, d) float32 matrix, not copied when it is one.

    Raises:
        DataError: when it is not two-dimensional or has no columns.
    """
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise DataError(f"{what}: a matrix of one vector a row is needed, not shape {vectors.shape}")
    return np.ascontiguousarray(vectors, np.float32)

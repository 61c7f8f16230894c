"""Dot products in one order of summation, and the checks that vectors pass before they are multiplied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataError
from recsys.types import Floats


def dots(vectors: Floats, query: Floats) -> Floats:
    """(M,) dot products of (M, d) vectors with one (d,) query.

    The sum runs along each row alone, so a row's score has the same bits whatever stands beside it,
    which a matrix product does not promise: batch of one, batch of a thousand and re-scoring agree.
    """
    scores: Floats = np.einsum("md,d->m", vectors, query)
    return scores


def lengths(vectors: Floats, what: str) -> Floats:
    """(M,) Euclidean lengths of (M, d) vectors.

    Raises:
        DataError: for the first vector that holds NaN or infinity, or is too long for float32.
    """
    result: Floats = np.sqrt(np.einsum("md,md->m", vectors, vectors))
    if not np.isfinite(result).all():
        first = int(np.flatnonzero(~np.isfinite(result))[0])
        raise DataError(f"{what} {first} is not a finite vector: {vectors[first, :8]}; find out where it was made")
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

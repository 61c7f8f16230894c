"""Similarities of vectors and of sets, and which metric of an index serves each of them: `ROUTES`.

| similarity | index metric | vectors of the items | vector of the query |
|---|---|---|---|
| dot | dot | as they are | as it is |
| dot | l2 | one more coordinate, √(M² - ‖v‖²), M the longest | one more coordinate, 0 |
| cosine | cosine | as they are | as it is |
| euclidean | l2 | as they are | as it is |
| pearson | cosine | each less its own mean | less its own mean |
| hamming | l2 | as they are, of 0 and 1 | as it is |
| jaccard, estimated | dot | MinHash, one bit a permutation as ±1 | the same |
| cosine, estimated | dot | SimHash, one bit a plane as ±1 | the same |

Dot by l2 is Bachrach et al. (RecSys 2014): ‖q - v‖² = ‖q‖² + M² - 2 q·v, so the nearest has the largest product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataError
from recsys.index.config import Metric
from recsys.index.dots import as_matrix, dots_of_rows, lengths, unit
from recsys.types import Floats, RaggedRows

_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))
_EMPTY: Final = np.uint64(2**64 - 1)


def dot(a: Floats, b: Floats) -> Floats:
    """(M, N) dot products of (M, d) and (N, d) vectors."""
    return _pair(a, b, lambda one, other: one @ other.T)


def cosine(a: Floats, b: Floats) -> Floats:
    """(M, N) cosines of the angles between (M, d) and (N, d) vectors; 0 with a vector of length 0."""
    return _pair(_unit(a), _unit(b), lambda one, other: one @ other.T)


def euclidean(a: Floats, b: Floats) -> Floats:
    """(M, N) negated Euclidean distances, so that larger is more similar.

    Differences are formed before they are squared: what lies close together far from the origin keeps its digits.
    """
    return _pair(a, b, lambda one, other: -np.stack([np.sqrt(_squares(one - row)) for row in other], axis=1))


def pearson(a: Floats, b: Floats) -> Floats:
    """(M, N) correlations of the columns' values within (M, d) and (N, d) vectors; 0 with one that is constant."""
    return cosine(centred(a), centred(b))


def hamming(a: Floats, b: Floats) -> Floats:
    """(M, N) negated numbers of columns in which (M, d) and (N, d) vectors of 0 and 1 differ."""

    def negated(one: Floats, other: Floats) -> Floats:
        counts: Floats = one @ other.T * 2 - one.sum(axis=1)[:, None] - other.sum(axis=1)
        return counts

    return _pair(_bits(a), _bits(b), negated)


def jaccard(a: RaggedRows, b: RaggedRows) -> Floats:
    """(M, N) |A ∩ B| / |A ∪ B| of M and N sets of numbers; 1 for two empty ones. Repeats count once."""
    values, places = np.unique(np.concatenate((a.values, b.values)), return_inverse=True)
    one = _membership(a, places[: len(a.values)], len(values))
    other = _membership(b, places[len(a.values) :], len(values))
    both = one @ other.T
    either = one.sum(axis=1)[:, None] + other.sum(axis=1) - both
    shares: Floats = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    return shares


def minhash(sets: RaggedRows, size: int, seed: int = 0) -> NDArray[np.uint64]:
    """(B, size) signatures of B sets of numbers: the least hash of each set's members under `size` hash functions.

    Two sets share a component with probability J, their Jaccard similarity (Broder 1997), so the share of equal
    components estimates J with a standard error of √(J(1 - J) / size).
    """
    signatures = np.full((len(sets), size), _EMPTY, np.uint64)
    filled = sets.lengths > 0
    starts = sets.offsets[:-1][filled]
    members = sets.values.astype(np.uint64)
    if len(starts):
        for i, salt in enumerate(np.random.default_rng(seed).integers(0, 2**64 - 1, size, np.uint64)):
            signatures[filled, i] = np.minimum.reduceat(_hashed(members, salt), starts)
    return signatures


def estimated_jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Floats:
    """(M, N) shares of equal components of (M, size) and (N, size) MinHash signatures."""
    return np.stack([(a == row).mean(axis=1, dtype=np.float32) for row in b], axis=1)


def simhash(vectors: Floats, size: int, seed: int = 0) -> Floats:
    """(B, size) of 0 and 1: on which side of `size` random planes through the origin each (B, d) vector lies.

    Two vectors at an angle θ differ in a bit with probability θ / π (Charikar 2002), so π times the share of bits
    that differ estimates θ with a standard error of √(θ(π - θ) / size).
    """
    vectors = as_matrix(vectors, "vectors")
    planes = np.random.default_rng(seed).standard_normal((vectors.shape[1], size), np.float32)
    return (vectors @ planes > 0).astype(np.float32)


def estimated_cosine(a: Floats, b: Floats) -> Floats:
    """(M, N) cosines of the angles that (M, size) and (N, size) SimHash bits estimate."""
    angles: Floats = -hamming(a, b) * np.float32(np.pi / a.shape[1])
    return np.cos(angles)


def centred(vectors: Floats) -> Floats:
    """Vectors, each less the mean of its own values: their cosine is Pearson's correlation."""
    result: Floats = vectors - vectors.mean(axis=1, keepdims=True)
    return result


def as_signs(bits: Floats) -> Floats:
    """±1 for bits: a dot product of n of them is n less twice the number that differ."""
    return bits * np.float32(2) - np.float32(1)


def minhash_signs(sets: RaggedRows, size: int, seed: int = 0) -> Floats:
    """(B, size) of ±1: the lowest bit of each component of a MinHash signature (b-bit minwise hashing, b = 1).

    Bits of unequal components agree half of the time, so the mean product of two sets' signs estimates J with a
    standard error of √((1 - J²) / size) (Li and König, WWW 2010).
    """
    return as_signs((minhash(sets, size, seed) & np.uint64(1)).astype(np.float32))


def mips_items(vectors: Floats, longest: float) -> Floats:
    """(N, d + 1) vectors with √(longest² - ‖v‖²) added, so that all have one length: largest dot product = nearest.

    Args:
        vectors: (N, d).
        longest: at least the length of every vector.
    """
    rest = np.float32(longest) ** 2 - dots_of_rows(vectors, vectors)
    return np.hstack((vectors, np.sqrt(np.maximum(rest, 0))[:, None]))


def mips_queries(queries: Floats) -> Floats:
    """(B, d + 1) queries with a 0 added, to be compared with `mips_items`."""
    return np.hstack((queries, np.zeros((len(queries), 1), np.float32)))


@dataclass(frozen=True, slots=True)
class Route:
    """How an index serves a similarity.

    Attributes:
        similarity: its name in SIMILARITIES.
        metric: of the index.
        items: from the items' data to (N, e) vectors of the index.
        queries: from the queries' data to (B, e) vectors to search with.
        estimated: whether the index orders by an estimate, and not by the similarity itself.
    """

    similarity: str
    metric: Metric
    items: Callable[[Any], Floats]
    queries: Callable[[Any], Floats]
    estimated: bool = False


def _as_it_is(vectors: Floats) -> Floats:
    return vectors


def _all_as_long(vectors: Floats) -> Floats:
    return mips_items(vectors, float(lengths(vectors, "vector").max(initial=0)))


def _jaccard_signs(sets: RaggedRows) -> Floats:
    return minhash_signs(sets, SKETCH)


def _angle_signs(vectors: Floats) -> Floats:
    return as_signs(simhash(vectors, SKETCH))


SKETCH: Final = 256
"""Bits of the sketches in ROUTES."""

SIMILARITIES: Final[Mapping[str, Callable[[Any, Any], Floats]]] = MappingProxyType(
    {
        "dot": dot,
        "cosine": cosine,
        "euclidean": euclidean,
        "pearson": pearson,
        "hamming": hamming,
        "jaccard": jaccard,
    }
)
"""Name → (M, N) similarities of M and N vectors, or sets; larger is more similar."""

ROUTES: Final = (
    Route("dot", "dot", _as_it_is, _as_it_is),
    Route("dot", "l2", _all_as_long, mips_queries),
    Route("cosine", "cosine", _as_it_is, _as_it_is),
    Route("euclidean", "l2", _as_it_is, _as_it_is),
    Route("pearson", "cosine", centred, centred),
    Route("hamming", "l2", _as_it_is, _as_it_is),
    Route("jaccard", "dot", _jaccard_signs, _jaccard_signs, estimated=True),
    Route("cosine", "dot", _angle_signs, _angle_signs, estimated=True),
)
"""Which metric of an index serves which similarity, and with which vectors; the table of the module's docstring."""


def pairwise(similarity: str, a: Any, b: Any) -> Floats:
    """(M, N) similarities by name.

    Args:
        similarity: a key of SIMILARITIES.
        a: (M, d) vectors, of 0 and 1 for "hamming"; M sets as RaggedRows for "jaccard".
        b: N of the same.

    Raises:
        DataError: for an unknown name, widths that differ, values that are not finite or not 0 and 1.
    """
    if similarity not in SIMILARITIES:
        raise DataError(f"there is no similarity {similarity!r}; there are: {', '.join(SIMILARITIES)}")
    return SIMILARITIES[similarity](a, b)


def _pair(a: Floats, b: Floats, compare: Callable[[Floats, Floats], Floats]) -> Floats:
    """Compares two matrices once both are seen to be of finite vectors of one width."""
    a, b = as_matrix(a, "vectors"), as_matrix(b, "vectors")
    if a.shape[1] != b.shape[1]:
        raise DataError(f"vectors of {a.shape[1]} columns cannot be compared with vectors of {b.shape[1]}")
    lengths(a, "vector")
    lengths(b, "vector")
    return compare(a, b) if len(b) else np.empty((len(a), 0), np.float32)


def _unit(vectors: Floats) -> Floats:
    vectors = as_matrix(vectors, "vectors")
    return unit(vectors, lengths(vectors, "vector"))


def _squares(rows: Floats) -> Floats:
    return dots_of_rows(rows, rows)


def _bits(vectors: Floats) -> Floats:
    wrong = vectors[(vectors != 0) & (vectors != 1)]
    if wrong.size:
        raise DataError(f"Hamming similarity is of vectors of 0 and 1, not {wrong[0]}")
    return vectors


def _membership(sets: RaggedRows, places: NDArray[np.intp], width: int) -> Floats:
    """(B, width) of 0 and 1."""
    members = np.zeros((len(sets), width), np.float32)
    members[np.repeat(np.arange(len(sets)), sets.lengths), places] = 1
    return members


def _hashed(values: NDArray[np.uint64], salt: np.uint64) -> NDArray[np.uint64]:
    """A 64-bit mix of each value (splitmix64, Steele et al., OOPSLA 2014); another one for each salt."""
    mixed = values * _ODD + salt
    for shift, factor in zip(_SHIFTS, _MIX, strict=False):
        mixed = (mixed ^ (mixed >> shift)) * factor
    hashed: NDArray[np.uint64] = mixed ^ (mixed >> _SHIFTS[2])
    return hashed

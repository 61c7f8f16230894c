"""Balanced 2-means, again and again: an order of vectors in which those that are alike stand together.

Two means c1, c2 halve a set in sizes given beforehand by ‖x - c1‖² - ‖x - c2‖², which orders x as its product with
c2 - c1 does (TDM, arXiv 1801.02294, section 3.4, where the halves are equal). So an iteration is a product with one
direction and a sort; large sets find theirs on a sample, small ones are halved many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from recsys.types import Bools, Floats, Offsets

_ITERATIONS: Final = 6
"""Means have all but settled: four times as many make clusters hardly tighter."""
_SAMPLE: Final = 4096
"""Vectors that a large set finds its direction on."""
_BLOCK: Final = 8192
"""Sets up to this size are gathered once, and halved down to the leaves where they lie."""
_PROJECTED: Final = 65_536


def bisected(vectors: Floats, bounds: Sequence[Offsets], seed: int) -> Offsets:
    """(N,) the vectors' numbers in an order in which every set of every level is a cluster.

    Args:
        vectors: (N, d) float32, finite.
        bounds: for each level, from one set of all on, (sets + 1,) where in the order its sets begin and end; each
            set is made of two of the next level.
        seed: of the sample and of where means start.
    """
    rng = np.random.default_rng(seed)
    order = np.arange(len(vectors))
    level = 0
    while level + 1 < len(bounds) and np.diff(bounds[level]).max() > _BLOCK:
        for start, stop, cut in _sets(bounds, level):
            order[start:stop] = _halved(vectors, order[start:stop], cut - start, rng)
        level += 1
    for number, (start, stop) in enumerate(pairwise(bounds[level].tolist())):
        members = order[start:stop]
        inner = [_edges_below(edges, number, down) for down, edges in enumerate(bounds[level:])]
        order[start:stop] = members[_bisected_block(vectors[members], inner, rng)]
    return order


def _edges_below(edges: Offsets, number: int, down: int) -> Offsets:
    """The edges, `down` levels below, of the sets that one set is made of, counted from its own start."""
    own = edges[number << down : (number + 1 << down) + 1]
    counted: Offsets = own - own[0]
    return counted


def _sets(bounds: Sequence[Offsets], level: int) -> list[tuple[int, int, int]]:
    """(start, stop, where the two of the next level meet) of each set of a level."""
    edges, cuts = bounds[level], bounds[level + 1][1::2]
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), cuts.tolist(), strict=True))


def _halved(vectors: Floats, members: Offsets, cut: int, rng: np.random.Generator) -> Offsets:
    """The members, those of one half first."""
    if not 0 < cut < len(members):
        return members
    sample = np.sort(rng.permutation(len(members))[:_SAMPLE])
    share = min(max(1, round(cut * len(sample) / len(members))), len(sample) - 1)
    sizes, cuts = np.array([len(sample)]), np.array([share])
    direction = _directions(vectors[members[sample]][None], sizes, cuts, 2 * _ITERATIONS, rng)[0]
    along = np.empty(len(members), np.float32)
    for start in range(0, len(members), _PROJECTED):
        part = slice(start, start + _PROJECTED)
        np.matmul(vectors[members[part]], direction, out=along[part])
    return members[np.argpartition(along, cut)]


def _bisected_block(vectors: Floats, bounds: Sequence[Offsets], rng: np.random.Generator) -> Offsets:
    """(n,) an order of n vectors, as `bisected` gives it."""
    order = np.arange(len(vectors))
    for edges, finer in pairwise(bounds):
        sizes, cuts = np.diff(edges), finer[1::2] - edges[:-1]
        wide = int(sizes.max())
        if wide <= 2:
            break
        place = edges[:-1, None] + np.arange(wide)
        there = np.arange(wide) < sizes[:, None]
        padded = np.where(there[..., None], vectors[order[np.minimum(place, len(order) - 1)]], np.float32(0))
        direction = _directions(padded, sizes, cuts, _ITERATIONS, rng)
        ranked = _ranked(_along(padded, direction), there)
        order = order[(edges[:-1, None] + ranked)[there]]
    return order


def _directions(padded: Floats, sizes: Offsets, cuts: Offsets, iterations: int, rng: np.random.Generator) -> Floats:
    """(g, d) from the mean of the first part of each of g sets to that of the rest, balanced 2-means having settled.

    Args:
        padded: (g, m, d) the vectors of each set, zeros behind them.
        sizes: (g,) vectors of each set.
        cuts: (g,) how many of them are the first part.
        iterations: of 2-means.
        rng: chooses the vector that means start from; the other is the farthest from it.
    """
    there = np.arange(padded.shape[1]) < sizes[:, None]
    each = np.arange(len(padded))
    start = padded[each, (rng.random(len(padded)) * sizes).astype(np.int64)]
    distance = np.einsum("gmd,gmd->gm", padded, padded) - 2 * _along(padded, start)
    direction: Floats = padded[each, np.where(there, distance, -np.inf).argmax(axis=1)] - start
    first = np.float32(-1) / np.maximum(cuts, 1).astype(np.float32)
    rest = np.float32(1) / np.maximum(sizes - cuts, 1).astype(np.float32)
    by_rank = np.where(np.arange(padded.shape[1]) < cuts[:, None], first[:, None], rest[:, None])
    for _ in range(iterations):
        ranked = _ranked(_along(padded, direction), there)
        weights = np.empty_like(by_rank)
        np.put_along_axis(weights, ranked, by_rank, axis=1)
        direction = np.matmul(weights[:, None, :], padded)[:, 0]
    return direction


def _along(padded: Floats, direction: Floats) -> Floats:
    """(g, m) products of vectors (g, m, d) with the direction (g, d) of their set."""
    product: Floats = np.matmul(padded, direction[:, :, None])[:, :, 0]
    return product


def _ranked(along: Floats, there: Bools) -> Offsets:
    """(g, m) places of each set by ascending product, padding last."""
    return np.argsort(np.where(there, along, np.inf), axis=1)

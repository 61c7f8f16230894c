"""Trees before anything was learned: items in a given order, at random, or by halving their vectors in two."""

from __future__ import annotations

import math

import numpy as np

from recsys.errors import ConfigError, DataError
from recsys.index.bisection import bisected
from recsys.index.dots import lengths
from recsys.index.item_tree import ItemTree
from recsys.types import Floats, Offsets, Rows


def in_order(order: Rows, slack: float = 0.0) -> ItemTree:
    """Items from left to right as given; by category, say, as in TDM's first tree (arXiv 1801.02294, section 3.4).

    Args:
        order: (N,) each row of the catalogue once, N >= 1.
        slack: vacant slots for later items, as a share of N, spread evenly.

    Raises:
        DataError: when `order` does not have each row once.
        ConfigError: for a slack that is negative or not finite.
    """
    count = len(order)
    if not count:
        raise DataError("a tree needs at least one item")
    tree = spread_evenly(order, slots_for(count, slack), count)
    if (tree.leaves < 0).any():
        lacking = int(np.flatnonzero(tree.leaves < 0)[0])
        raise DataError(f"the order lacks row {lacking}; each of {count} rows is needed once")
    return tree


def spread_evenly(order: Rows, slots: int, count: int) -> ItemTree:
    """A tree with vacant slots spread evenly between its items.

    Args:
        order: (M,) rows from left to right, each at most once; M <= S.
        slots: S.
        count: rows of the catalogue.

    Raises:
        DataError: for a row outside the catalogue, or twice.
    """
    empty = ItemTree(np.full(slots, -1, np.int32), count)
    rows = empty.rows.copy()
    rows[empty.left_to_right()[np.arange(len(order)) * slots // max(1, len(order))]] = order
    return ItemTree(rows, count)


def at_random(count: int, seed: int = 0, slack: float = 0.0) -> ItemTree:
    """N items anywhere."""
    return in_order(np.random.default_rng(seed).permutation(count).astype(np.int32), slack)


def by_two_means(vectors: Floats, slack: float = 0.0, seed: int = 0, slots: int | None = None) -> ItemTree:
    """Items under one node are a cluster of the vectors, at every level: balanced 2-means from the root down.

    TDM's clustering (arXiv 1801.02294, section 3.4), with parts as large as complete subtrees ask for. Distances are
    Euclidean; for cosine give vectors of length 1.

    Args:
        vectors: (N, d) float32 of the catalogue's rows, N >= 1; may be memory-mapped.
        slack: as of `in_order`.
        seed: of the samples that large sets are halved by.
        slots: of the tree, N or more; None = as `slack` asks for.

    Raises:
        DataError: for vectors that are not finite, or none.
        ConfigError: for a slack that is negative or not finite.
    """
    if not len(vectors):
        raise DataError("a tree needs at least one item")
    lengths(vectors, "vector")
    slots = slots_for(len(vectors), slack) if slots is None else slots
    depth = (slots - 1).bit_length()
    bounds = [even_bounds(slots, len(vectors), level) for level in range(max(depth, 1))]
    return spread_evenly(bisected(vectors, bounds, seed).astype(np.int32), slots, len(vectors))


def even_bounds(slots: int, count: int, level: int) -> Offsets:
    """(2^level + 1,) where, among N items from left to right, those below each node of a level begin and end.

    As `in_order` spreads the vacant slots.

    Args:
        slots: S of the tree.
        count: N.
        level: 0…depth - 1, where all nodes of a depth are one level.
    """
    depth = (slots - 1).bit_length()
    if not depth:
        return np.array([0, count])
    parents = np.arange((1 << level) + 1) << depth - 1 - level  # of the deepest leaves, or early leaves, to the left
    leaves = parents + np.minimum(parents, slots - (1 << depth - 1))
    bounds: Offsets = -(-leaves * count // slots)
    return bounds


def slots_for(count: int, slack: float) -> int:
    """Slots S of a tree over `count` items.

    Raises:
        ConfigError: for a slack that is negative or not finite.
    """
    if not 0 <= slack < math.inf:
        raise ConfigError(f"slack = {slack}: the share of vacant leaves must be a number from 0 on")
    return math.ceil(count * (1 + slack))

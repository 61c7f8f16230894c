"""Trees before anything was learned: items in a given order, at random, or by halving their vectors in two."""

from __future__ import annotations

import math

import numpy as np

from recsys.errors import ConfigError, DataError, PreconditionError
from recsys.index.item_tree import ItemTree
from recsys.types import Floats, Rows


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
    slots = slots_for(count, slack)
    empty = ItemTree(np.full(slots, -1, np.int32), count)
    rows = empty.rows.copy()
    rows[empty.left_to_right()[np.arange(count) * slots // count]] = order
    tree = ItemTree(rows, count)
    if (tree.leaves < 0).any():
        lacking = int(np.flatnonzero(tree.leaves < 0)[0])
        raise DataError(f"the order lacks row {lacking}; each of {count} rows is needed once")
    return tree


def at_random(count: int, seed: int = 0, slack: float = 0.0) -> ItemTree:
    """N items anywhere."""
    return in_order(np.random.default_rng(seed).permutation(count).astype(np.int32), slack)


def slots_for(count: int, slack: float) -> int:
    """Slots S of a tree over `count` items.

    Raises:
        ConfigError: for a slack that is negative or not finite.
    """
    if not 0 <= slack < math.inf:
        raise ConfigError(f"slack = {slack}: the share of vacant leaves must be a number from 0 on")
    return math.ceil(count * (1 + slack))


def vacant_slots_near(tree: ItemTree, node_vectors: Floats, vectors: Floats) -> Rows:
    """(M,) a vacant slot for each new item: from the root down to the child with the greater product that has room.

    The walk is the beam search of a user who is the item, one node wide; items take turns, so that each sees what
    those before it took.

    Args:
        tree: with at least M vacancies.
        node_vectors: (2S-1, d) of the nodes; may be memory-mapped.
        vectors: (M, d) of the new items, in the nodes' space.

    Raises:
        PreconditionError: for more items than vacancies.
    """
    room = tree.bottom_up((tree.rows < 0).astype(np.int32), np.add)
    if len(vectors) > room[0]:
        raise PreconditionError(
            f"the tree has {room[0]} vacant leaves for {len(vectors)} new items: train it again, with more slack"
        )
    slots = np.empty(len(vectors), np.int32)
    for i, vector in enumerate(vectors):
        node = 0
        while node < tree.first_leaf:
            room[node] -= 1
            left, right = 2 * node + 1, 2 * node + 2
            if room[left] and room[right]:
                node = left if vector @ node_vectors[left] >= vector @ node_vectors[right] else right
            else:
                node = left if room[left] else right
        room[node] -= 1
        slots[i] = node - tree.first_leaf
    return slots

"""Where items that come later go in a tree: to vacant leaves, among those that are like them."""

from __future__ import annotations

import numpy as np

from recsys.errors import PreconditionError
from recsys.index.item_tree import ItemTree
from recsys.types import Floats, Rows


def grown(tree: ItemTree, vectors: Floats) -> ItemTree:
    """The tree with every item that it lacks at a vacant leaf; the others stay where they are.

    From the root down a new item goes to the child the mean of whose items is nearer, as in 2-means, if there is room.

    Args:
        tree: of all N rows, or some.
        vectors: (N, d) float32 of the rows, those that the tree was clustered by; distances are Euclidean.

    Raises:
        PreconditionError: for more new items than vacant leaves.
    """
    new = np.flatnonzero(tree.leaves < 0).astype(np.int32)
    if not len(new):
        return tree
    # The nearer of two means c is that with the greater v·c - |c|² / 2.
    asked = np.concatenate([vectors[new], np.ones((len(new), 1), np.float32)], axis=1)
    return tree.with_items(new, vacant_slots_near(tree, _centres(tree, vectors), asked))


def vacant_slots_near(tree: ItemTree, node_vectors: Floats, vectors: Floats) -> Rows:
    """(M,) a vacant slot for each new item: from the root down to the child with the greater product that has room.

    Items take turns, so that each sees what those before it took.

    Args:
        tree: with at least M vacancies.
        node_vectors: (2S-1, d) of the nodes; may be memory-mapped.
        vectors: (M, d) what they are multiplied with.

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


def _centres(tree: ItemTree, vectors: Floats) -> Floats:
    """(2S-1, d + 1) the mean c of the items below each node, zeros where there is none, and -|c|² / 2."""
    held = np.flatnonzero(tree.rows >= 0)
    leaves = np.zeros((tree.slots, vectors.shape[1] + 1), np.float32)
    leaves[held, :-1] = vectors[tree.rows[held]]
    leaves[held, -1] = 1.0
    centres: Floats = tree.bottom_up(leaves, np.add)
    means = centres[:, :-1]
    means /= np.maximum(centres[:, -1:], 1.0)
    centres[:, -1] = -0.5 * np.einsum("nd,nd->n", means, means)
    return centres

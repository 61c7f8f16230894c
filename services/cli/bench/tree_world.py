"""What `recsys bench tree` searches: made-up items in clusters, a tree of them, and users near some of the items."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from recsys.index.config import IndexConfig
from recsys.index.item_tree import ItemTree
from recsys.index.node_attention import NodeAttention
from recsys.index.tree_building import by_two_means
from recsys.index.vector_index import VectorIndex
from recsys.types import Floats, Rows
from services.cli.bench.index_worlds import mixture

_NOISE: Final = 0.3
_NEAREST: Final = 500
"""Items that a user's behaviours are drawn from."""
_CAP: Final = 8.0
_DECAY: Final = 0.05
"""How much less a behaviour one older counts, in nats."""


@dataclass(frozen=True, slots=True, eq=False)
class TreeWorld:
    """A tree as served, memory-mapped, and who asks.

    Attributes:
        items: (N, d) of length 1; leaves of the tree.
        users: (Q, d) e_u, of length 1.
        histories: of each user, oldest first.
        attention: over the tree; an inner node is the mean of the leaves below it, scaled to length 1.
        exact: flat search of the items.
        build_seconds: of the tree, out of the items.
    """

    items: Floats
    users: Floats
    histories: list[Rows]
    attention: NodeAttention
    exact: VectorIndex
    build_seconds: float


def made_up(count: int, dim: int, attended: int, queries: int, folder: Path) -> TreeWorld:
    """Makes a world of `count` items; what is memory-mapped lies in the folder."""
    items, users = mixture(count, dim, _NOISE, queries)
    started = time.perf_counter()
    tree = by_two_means(items)
    seconds = time.perf_counter() - started
    same = np.eye(dim, dtype=np.float32)
    ages = (-_DECAY * np.arange(attended)).astype(np.float32)
    tree.save(folder)
    NodeAttention(tree, _node_vectors(tree, items), same, same, ages, _CAP).save(folder)
    opened = NodeAttention.open(folder, ItemTree.open(folder))
    exact, _ = VectorIndex.build(items, IndexConfig(kind="flat", device="cpu"))
    return TreeWorld(items, users, _histories(exact, users, attended), opened, exact, seconds)


def _node_vectors(tree: ItemTree, items: Floats) -> Floats:
    sums = tree.bottom_up(items[tree.rows], np.add)
    vectors: Floats = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return vectors


def _histories(exact: VectorIndex, users: Floats, attended: int) -> list[Rows]:
    rng = np.random.default_rng(0)
    near, _ = exact.search(users, min(_NEAREST, len(exact)))
    return [rng.permutation(rows)[:attended] for rows in near]

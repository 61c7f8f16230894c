"""Which nodes of a tree have an eligible leaf below them, for a mask of rows and for what one user may not get."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

import numpy as np
import xxhash

from recsys.errors import FeatureMismatchError
from recsys.index.engine import distinct, is_member
from recsys.index.item_tree import ItemTree, Nodes
from recsys.types import Bools, RowMask, Rows

_KEPT: Final = 4
"""Masks whose nodes are remembered, 2 bytes an item each: requests with the same filter come again."""


class EligibleNodes:
    """The nodes above at least one leaf that holds an allowed row.

    Args:
        tree: over N rows.
        allowed: (N,) rows that may be returned; None = all.
    """

    def __init__(self, tree: ItemTree, allowed: Bools | None = None) -> None:
        self._tree = tree
        leaves = tree.rows >= 0
        if allowed is not None:
            leaves &= allowed[tree.rows]
        self._flags: Bools | None = None if leaves.all() else tree.bottom_up(leaves, np.logical_or)

    def level(self, level: int) -> Nodes:
        """Those of a level, ascending."""
        nodes = self._tree.level(level)
        if self._flags is None:
            return np.arange(nodes.start, nodes.stop)
        return np.flatnonzero(self._flags[nodes.start : nodes.stop]) + nodes.start

    def first_level_above(self, count: int) -> tuple[int, Nodes]:
        """The first level with more than `count` of them, else the last one, and its eligible nodes."""
        level = min(count.bit_length(), self._tree.depth)  # narrower levels have no more than `count` nodes at all
        nodes = self.level(level)
        while len(nodes) <= count and level < self._tree.depth:
            level += 1
            nodes = self.level(level)
        return level, nodes

    def among(self, nodes: Nodes) -> Nodes:
        """Those of the given nodes, in their order."""
        return nodes if self._flags is None else nodes[self._flags[nodes]]

    def has(self, nodes: Nodes) -> Bools:
        """(M,) which of the given nodes they are."""
        return np.ones(len(nodes), np.bool_) if self._flags is None else self._flags[nodes]


class MaskedNodes:
    """Eligible nodes by mask; those of the last few masks are kept.

    Args:
        tree: over N rows.
    """

    def __init__(self, tree: ItemTree) -> None:
        self._tree = tree
        self._all = EligibleNodes(tree)
        self._kept: OrderedDict[bytes, EligibleNodes] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, mask: RowMask | None) -> EligibleNodes:
        """The nodes above an allowed row.

        Raises:
            FeatureMismatchError: for a mask over another number of rows.
        """
        if mask is None:
            return self._all
        if len(mask.allowed) != len(self._tree):
            raise FeatureMismatchError(f"the mask has {len(mask.allowed)} rows, the tree {len(self._tree)}")
        digest = xxhash.xxh3_128_digest(np.ascontiguousarray(mask.allowed).data)
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
                return found
        found = EligibleNodes(self._tree, mask.allowed)
        with self._lock:
            self._kept[digest] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found


class Exclusions:
    """The nodes below which one user may get nothing, because the rest of their eligible leaves is excluded.

    A node is such a one if each of its children is, or has no eligible leaf to begin with; hence they are found from
    the leaves up, among the parents of those of the level below.

    Args:
        tree: over N rows.
        eligible: for all users.
        excluded: rows that this user may not get, in any order.
        first_level: the highest level that will be asked for.
    """

    def __init__(self, tree: ItemTree, eligible: EligibleNodes, excluded: Rows | None, first_level: int) -> None:
        self._by_level: dict[int, Nodes] = {}
        if excluded is None or not len(excluded):
            return
        slots = tree.leaves[distinct(excluded)]
        shut = np.sort(slots[slots >= 0].astype(np.int64)) + tree.first_leaf
        level = tree.depth
        while len(shut):
            self._by_level[level] = shut
            if level == first_level:
                break
            shut = _parents_shut(shut, (1 << level) - 1, eligible)
            level -= 1

    def without(self, nodes: Nodes, level: int) -> Nodes:
        """The given nodes of a level that are not shut, in their order."""
        shut = self._by_level.get(level)
        return nodes if shut is None else nodes[~is_member(nodes, shut)]

    def open(self, nodes: Nodes, level: int) -> Bools:
        """(M,) which of the given nodes of a level are not shut."""
        shut = self._by_level.get(level)
        return np.ones(len(nodes), np.bool_) if shut is None else ~is_member(nodes, shut)


def _parents_shut(shut: Nodes, first: int, eligible: EligibleNodes) -> Nodes:
    """Nodes of the level above with nothing left; leaves that end above `first`, the level's first node, stay."""
    early, deep = shut[shut < first], shut[shut >= first]
    left = (deep[:-1] & 1 == 1) & (deep[1:] == deep[:-1] + 1)
    sibling = (deep - 1 ^ 1) + 1
    lonely = deep[~eligible.has(sibling)]
    return distinct(np.concatenate((early, deep[:-1][left] >> 1, lonely - 1 >> 1)))

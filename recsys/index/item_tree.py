"""ItemTree: a complete binary tree whose leaves are the items of a catalogue, as two arrays of 4 bytes an item.

Nodes are numbered as in a heap: node 0 is the root, the children of node i are 2i + 1 and 2i + 2. Over S slots there
are S - 1 inner nodes, 0…S-2, and S leaves, S-1…2S-2, so that the depths of leaves differ by at most 1 for every S
and no pointer is stored. A slot without an item is vacant; items that come later go there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.errors import BundleError, DataError
from recsys.index.arrays import map_array, save_array
from recsys.types import Ids, Rows

Nodes: TypeAlias = NDArray[np.int64]
"""Numbers of nodes, in heap order."""
Levels: TypeAlias = int | NDArray[np.integer[Any]]
"""Depths: one, or an array that is broadcast against rows."""

_ROWS: Final = "rows.npy"
_LEAVES: Final = "leaves.npy"
_NONE: Final = -1


class ItemTree:
    """Which item each leaf holds, and which leaf holds each item.

    Level l < depth is the nodes at depth l. Level `depth` is all leaves: one that ends a step early is its own
    ancestor there, so that it meets the others in the last level.

    Args:
        rows: (S,) int32, S >= 1: catalogue row in each slot, -1 = vacant.
        count: rows N of the catalogue.

    Attributes:
        rows: (S,) int32; slot s is node S - 1 + s.
        leaves: (N,) int32 slot of each catalogue row, -1 = not in the tree.
        slots: S.
        depth: of the deepest leaf: ⌈log2 S⌉.

    Raises:
        DataError: for a row outside the catalogue, or in two slots.
    """

    def __init__(self, rows: Rows, count: int) -> None:
        rows = np.ascontiguousarray(rows, np.int32)
        self._take(rows, _leaves_of(rows, count))

    def _take(self, rows: Rows, leaves: Rows) -> None:
        self.rows = rows
        self.leaves = leaves
        self.slots = len(rows)
        self.depth = (self.slots - 1).bit_length()

    def __len__(self) -> int:
        """Rows of the catalogue."""
        return len(self.leaves)

    @property
    def nodes(self) -> int:
        """Inner nodes and leaves, 2S - 1."""
        return 2 * self.slots - 1

    @property
    def first_leaf(self) -> int:
        """Number of the first leaf, S - 1; every node below it is an inner one."""
        return self.slots - 1

    @property
    def vacancies(self) -> int:
        """Slots without an item."""
        return int(np.count_nonzero(self.rows < 0))

    def level(self, level: int) -> range:
        """Nodes of a level, 0…depth, ascending; an early leaf is in the last two."""
        if level == self.depth:
            return range(self.first_leaf, self.nodes)
        return range((1 << level) - 1, (1 << level + 1) - 1)

    def ancestors(self, rows: Rows, level: Levels) -> Nodes:
        """The node at a level, 0…depth, that is above the leaf of each row, or is that leaf; -1 = not in the tree.

        Args:
            rows: of the catalogue, in any shape.
            level: one, or an array that is broadcast against `rows`.
        """
        slot = self.leaves[rows].astype(np.int64)
        numbered = slot + self.slots  # counted from 1 the parent of node i is i // 2
        depth = self.depth - (numbered < 1 << self.depth)
        above = (numbered >> np.maximum(depth - level, 0)) - 1
        return np.where(slot < 0, _NONE, above)

    def children(self, nodes: Nodes) -> Nodes:
        """Children of M nodes, each pair together; behind them the leaves among the nodes, which have none."""
        inner = nodes
        if len(nodes) and int(nodes.max()) >= self.first_leaf:
            inner = nodes[nodes < self.first_leaf]
        pairs = 2 * len(inner)
        found = np.empty(pairs + len(nodes) - len(inner), np.int64)
        left = found[0:pairs:2]
        np.multiply(inner, 2, out=left)
        left += 1
        np.add(left, 1, out=found[1:pairs:2])
        if inner is not nodes:
            found[pairs:] = nodes[nodes >= self.first_leaf]
        return found

    def bottom_up(self, leaf_values: NDArray[Any], join: np.ufunc) -> NDArray[Any]:
        """(2S-1, …) a value of each node out of those of its children: `join` of the two.

        Args:
            leaf_values: (S, …) of the slots.
            join: np.add counts, np.logical_or asks whether there is one, np.maximum finds the best.
        """
        values = np.empty((self.nodes, *leaf_values.shape[1:]), leaf_values.dtype)
        values[self.first_leaf :] = leaf_values
        for level in reversed(range(self.depth)):
            first, stop = (1 << level) - 1, min((1 << level + 1) - 1, self.first_leaf)
            below = values[2 * first + 1 : 2 * stop + 1]
            join(below[0::2], below[1::2], out=values[first:stop])
        return values

    def occupied(self) -> NDArray[np.int32]:
        """(2S-1,) items below each node; of a leaf 1, or 0 where it is vacant."""
        return self.bottom_up((self.rows >= 0).astype(np.int32), np.add)

    def left_to_right(self) -> Rows:
        """(S,) the slots in the order of a walk through the tree: leaves of one subtree stand together.

        The deepest leaves, whose numbers are the greatest, are the leftmost.
        """
        return np.roll(np.arange(self.slots, dtype=np.int32), self.slots - (1 << self.depth))

    def without(self, rows: Rows) -> ItemTree:
        """The tree with these items' leaves vacant; what is not in it stays so."""
        slots = self.leaves[rows]
        remaining = self.rows.copy()
        remaining[slots[slots >= 0]] = _NONE
        return ItemTree(remaining, len(self))

    def with_items(self, rows: Rows, slots: Rows) -> ItemTree:
        """The tree with items in vacant slots.

        Args:
            rows: (M,) not in the tree yet; beyond N for a catalogue that has grown.
            slots: (M,) vacant, each once.

        Raises:
            DataError: for a slot that is taken, or a row that is in the tree.
        """
        taken = slots[self.rows[slots] >= 0]
        if len(taken):
            raise DataError(f"slots {taken[:5].tolist()} of the tree are taken: choose vacant ones")
        if len(np.unique(slots)) < len(slots):
            raise DataError("two items are to be put into one slot of the tree")
        grown = self.rows.copy()
        grown[slots] = rows
        return ItemTree(grown, max(len(self), int(rows.max(initial=-1)) + 1))

    def renumbered(self, new_rows: Rows, count: int) -> ItemTree:
        """The same tree over another catalogue: items it lacks leave vacant slots.

        Args:
            new_rows: (N,) row of each present row in the other catalogue, -1 = gone.
            count: rows of the other catalogue; those that are new are not in the tree.
        """
        moved = np.append(new_rows, _NONE).astype(np.int32)[self.rows]  # vacant slots read what was appended
        return ItemTree(moved, count)

    def check_holds(self, ids: Ids) -> None:
        """Checks that the tree holds every item of a catalogue, and nothing else.

        Args:
            ids: (N,) of the catalogue's rows.

        Raises:
            BundleError: names the first item without a leaf, or the first leaf without an item.
        """
        foreign = np.flatnonzero(self.rows >= len(ids))
        if len(foreign):
            slot = int(foreign[0])
            raise BundleError(
                f"leaf {slot} of the tree holds row {self.rows[slot]}, and the catalogue has {len(ids)} rows: "
                "the tree is another catalogue's; train it again"
            )
        missing = np.flatnonzero(self.leaves[: len(ids)] < 0)
        first = int(missing[0]) if len(missing) else len(self)
        if first < len(ids):
            absent = len(missing) + max(0, len(ids) - len(self))
            raise BundleError(
                f"item {ids[first]} (row {first}) is in the catalogue but not in the tree, "
                f"as {absent} of {len(ids)} are: insert them or train the tree again"
            )

    def save(self, directory: Path) -> None:
        """Writes `rows.npy` and `leaves.npy`."""
        save_array(directory / _ROWS, self.rows)
        save_array(directory / _LEAVES, self.leaves)

    @classmethod
    def open(cls, directory: Path) -> ItemTree:
        """Opens a saved tree, memory-mapped.

        Raises:
            BundleError: names the file that is missing, damaged or none of a tree's, or says how the two disagree.
        """
        rows, leaves = (map_array(directory / name, np.int32, 1) for name in (_ROWS, _LEAVES))
        if not len(rows):
            raise BundleError(f"{directory / _ROWS}: a tree without a leaf; train it again")
        try:
            agrees = np.array_equal(_leaves_of(rows, len(leaves)), leaves)
        except DataError as error:
            raise BundleError(f"{directory / _ROWS}: damaged or another tree's: {error}") from None
        if not agrees:
            raise BundleError(f"{directory / _LEAVES}: does not say where {_ROWS} has the items; train the tree again")
        tree = cls.__new__(cls)
        tree._take(rows, leaves)
        return tree


def _leaves_of(rows: Rows, count: int) -> Rows:
    """(N,) slot of each catalogue row, -1 = in none.

    Raises:
        DataError: for a row outside 0…N-1 or in two slots.
    """
    if not len(rows):
        raise DataError("a tree needs at least one slot")
    slots = np.flatnonzero(rows >= 0).astype(np.int32)
    held = rows[slots]
    if rows.min() < _NONE or (len(held) and int(held.max()) >= count):
        worst = rows.min() if rows.min() < _NONE else held.max()
        raise DataError(f"a leaf holds row {worst}; the rows are 0…{count - 1}, and -1 is a vacant leaf")
    leaves = np.full(count, _NONE, np.int32)
    leaves[held] = slots
    if np.count_nonzero(leaves >= 0) < len(held):
        twice = held[leaves[held] != slots][0]
        raise DataError(f"row {twice} is in two leaves of the tree")
    return leaves

"""The nodes of an item tree as tensors: levels, ancestors, and which nodes have an item below."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys.index.item_tree import ItemTree


class TreeNodes(nn.Module):
    """A complete binary tree over S leaf slots in heap order: nodes 0 … 2S - 2, of which S - 1 … are the leaves.

    Levels are numbered from the root, 0 … D with D = ⌈log2 S⌉. A leaf at depth D - 1 is its own ancestor at level D,
    whose nodes are therefore all leaves. Nodes without an item below take part in nothing.

    Args:
        tree: which item each leaf holds.

    Attributes:
        held: the tree.
        rows: (S,) catalogue row at each slot, -1 = vacant.
        leaves: (N,) slot of each catalogue row, -1 = not in the tree.
        live: nodes with an item below, ascending.
        alive: (2S - 1,) whether a node has one.

    Raises:
        ValueError: when there are fewer than two slots.
    """

    rows: Tensor
    leaves: Tensor
    live: Tensor
    alive: Tensor

    def __init__(self, tree: ItemTree) -> None:
        super().__init__()
        if tree.slots < 2:
            raise ValueError("a tree to train has at least two leaf slots")
        self.held = tree
        for name, tensor in _tables(tree).items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def slots(self) -> int:
        """S."""
        return len(self.rows)

    @property
    def inner(self) -> int:
        """S - 1, the number of inner nodes; nodes from here on are leaves."""
        return self.slots - 1

    @property
    def depth(self) -> int:
        """D."""
        return (self.slots - 1).bit_length()

    def place(self, tree: ItemTree) -> None:
        """Takes another tree of as many slots.

        Raises:
            ValueError: when there are more or fewer slots than before.
        """
        if tree.slots != self.slots:
            raise ValueError(f"the tree has {self.slots} leaf slots, not {tree.slots}")
        self.held = tree
        for name, tensor in _tables(tree).items():
            setattr(self, name, tensor.to(self.rows.device))

    def at_level(self, level: int) -> Tensor:
        """The nodes of a level that have an item below, ascending."""
        first = self.inner if level == self.depth else (1 << level) - 1
        last = 2 * self.slots - 1 if level == self.depth else (2 << level) - 1
        low, high = torch.searchsorted(self.live, self.live.new_tensor([first, last])).tolist()
        return self.live[low:high]

    def width(self, level: int) -> int:
        """How many nodes of a level have an item below."""
        return len(self.at_level(level))

    def of_rows(self, rows: Tensor) -> Tensor:
        """The leaves of catalogue rows (…); -1 for a row that is not in the tree."""
        leaf = self.leaves[rows]
        return torch.where(leaf < 0, leaf, leaf + self.inner)

    def siblings(self, nodes: Tensor, level: int) -> Tensor:
        """The other child of the parent of nodes (…) at a level.

        -1 where it has no item below, and at the last level for a leaf that ends before: its parent there is itself.
        """
        other = torch.where(nodes % 2 == 1, nodes + 1, nodes - 1)
        here = (nodes > 0) & (_depth(nodes) == level) & self.alive[other.clamp(min=0)]
        return torch.where(here, other, -1)

    def ancestors(self, nodes: Tensor, level: int) -> Tensor:
        """Ancestors of leaves (…) at a level; -1 stays -1."""
        shift = (_depth(nodes) - level).clamp(min=0)
        return torch.where(nodes < 0, nodes, ((nodes + 1) >> shift) - 1)


def _depth(nodes: Tensor) -> Tensor:
    """⌊log2(node + 1)⌋, exactly: a node's number is below 2^53."""
    return torch.frexp((nodes + 1).clamp(min=1).double())[1].long() - 1


def _tables(tree: ItemTree) -> dict[str, Tensor]:
    alive = tree.occupied() > 0
    live = np.flatnonzero(alive)
    tables = {"rows": _long(tree.rows), "leaves": _long(tree.leaves), "live": _long(live)}
    return tables | {"alive": torch.from_numpy(alive)}


def _long(array: NDArray[np.integer[Any]]) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))

"""TDM: a user's vector and attention over its behaviours score the nodes of an item tree (arXiv 1801.02294).

score(u, n) = e_u·n + A_u(n): e_u is the user tower's of a two-tower, A_u attention in which behaviours enter as their
ancestors at the level that is scored (JTM, arXiv 1902.07565, §3.3). Leaves are the item tower's vectors; inner nodes
have a table of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.index.item_tree import ItemTree
from recsys.models.behaviour_pairs import LevelTable
from recsys.models.item_tower import stacked
from recsys.models.layers.node_attention import NodeAttention
from recsys.models.tree_nodes import TreeNodes
from recsys.models.two_tower import TwoTower

_NODES_AT_ONCE: Final = 65_536


@dataclass(frozen=True, slots=True)
class BatchItems:
    """The items that a batch meets, each once.

    Attributes:
        rows: (U,) catalogue rows, ascending.
        states: (U, d) what a history is made of.
        vectors: (U, d_out) what the leaves are.
    """

    rows: Tensor
    states: Tensor
    vectors: Tensor

    def places(self, rows: Tensor) -> Tensor:
        """Where rows (…) of the batch are among these."""
        return torch.searchsorted(self.rows, rows.contiguous())


class Tdm(nn.Module):
    """Two-tower, attention and tree.

    Args:
        users: the two-tower that gives e_u and the leaves.
        tree: which item each leaf holds.
        attended: newest behaviours that attention looks at.
        cap: bound of its scores.

    Raises:
        ValueError: when there are fewer than two slots.
    """

    name: ClassVar[str] = "tdm"

    def __init__(self, users: TwoTower, tree: ItemTree, attended: int = 50, cap: float = 8.0) -> None:
        super().__init__()
        shape = users.shape
        self.users = users
        self.tree = TreeNodes(tree)
        self.attention = NodeAttention(shape.dim, attended, cap)
        self.inner = nn.Embedding(self.tree.inner, shape.dim + (shape.similarity == "dot"))
        self.average_leaves()

    @property
    def device(self) -> str:
        """Where the weights are."""
        return self.users.device

    def set_tree(self, tree: ItemTree, *, keep_inner: bool = False) -> None:
        """Puts another tree of as many slots in place.

        Args:
            tree: which item each leaf holds.
            keep_inner: whether inner nodes stay what they were, as JTM does; else each becomes the mean of the leaves
                below it.

        Raises:
            ValueError: when there are more or fewer slots than before.
        """
        self.tree.place(tree)
        if not keep_inner:
            self.average_leaves()

    @torch.no_grad()
    def average_leaves(self) -> None:
        """Sets each inner node to the mean of the leaves below it, zeros where there is none."""
        training = self.training
        self.eval()
        tree, table = self.tree, self.inner.weight
        sums = table.new_zeros(2 * tree.slots - 1, table.shape[1])
        counts = table.new_zeros(2 * tree.slots - 1, 1)
        for slots in torch.split((tree.rows >= 0).nonzero()[:, 0], _NODES_AT_ONCE):
            sums[slots + tree.inner] = self.users.items(tree.rows[slots])[1].to(table.dtype)
        counts[tree.of_rows(tree.rows[tree.rows >= 0])] = 1.0
        for level in reversed(range(tree.depth)):
            nodes = torch.arange((1 << level) - 1, min((2 << level) - 1, tree.inner), device=table.device)
            for part in torch.split(nodes, _NODES_AT_ONCE):
                sums[part] = sums[2 * part + 1] + sums[2 * part + 2]
                counts[part] = counts[2 * part + 1] + counts[2 * part + 2]
        table.copy_(sums[: tree.inner] / counts[: tree.inner].clamp(min=1.0))
        self.train(training)

    def batch_items(self, rows: Tensor) -> BatchItems:
        """The item tower over catalogue rows, in any order and repeated."""
        unique = torch.unique(rows)
        return BatchItems(unique, *self.users.items(unique))

    def vectors(self, nodes: Tensor, items: BatchItems) -> Tensor:
        """(Q, d_out) vectors of nodes (Q,), ascending; the items of the leaves among them must be in the batch."""
        split = int(torch.searchsorted(nodes, self.tree.inner))
        inner = self._inner_vectors(self.inner(nodes[:split]))
        leaves = F.embedding(items.places(self.tree.rows[nodes[split:] - self.tree.inner]), items.vectors)
        return torch.cat([inner, leaves])

    def table(self, nodes: Tensor, items: BatchItems) -> LevelTable:
        """As `vectors`, with what the nodes are as behaviours."""
        vectors = self.vectors(nodes, items)
        return LevelTable(vectors, *self.attention.sides(self.bare(vectors)))

    def bare(self, vectors: Tensor) -> Tensor:
        """Node vectors (…, d_out) without their bias, (…, d)."""
        return vectors[..., : self.users.shape.dim]

    def newest_scores(self, users: Tensor, behaviours: Tensor, age: Tensor, nodes: Tensor) -> Tensor:
        """Scores of nodes after the whole history, the way they are served, (B, M).

        Args:
            users: (B, d_out) e_u.
            behaviours: (B, L, d) vectors, without bias, of the behaviours' ancestors at the nodes' level.
            age: (B, L), 1 = newest, 0 = no behaviour.
            nodes: (M, d_out) or (B, M, d_out) vectors of nodes of one level.
        """
        attention = self.attention(self.bare(nodes), behaviours, self.attention.age_factors(age))
        scores: Tensor = (users.unsqueeze(1) @ nodes.mT)[:, 0] + attention
        return scores

    def node_table(self) -> Tensor:
        """(2S - 1, d_out) what `node_blocks` gives, in one piece."""
        return stacked(self.node_blocks(), 2 * self.tree.slots - 1)

    @torch.no_grad()
    def node_blocks(self, size: int = _NODES_AT_ONCE) -> Iterator[Tensor]:
        """(size, d_out) vectors of all 2S - 1 nodes in heap order, as they are served; zeros where a leaf is vacant."""
        for start in range(0, self.tree.inner, size):
            yield self._inner_vectors(self.inner.weight[start : start + size])
        for rows in torch.split(self.tree.rows, size):
            vectors = self.users.items(rows.clamp(min=0))[1]
            yield vectors.masked_fill((rows < 0).unsqueeze(1), 0.0)

    def _inner_vectors(self, table: Tensor) -> Tensor:
        vectors: Tensor = F.normalize(table, dim=-1) if self.users.shape.similarity == "cosine" else table
        return vectors

"""Beam search down a tree of items: the best k of N rows after at most 2 · beam · ⌈log2 S⌉ scored nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.errors import RequestError
from recsys.index.eligible_nodes import EligibleNodes, Exclusions, MaskedNodes
from recsys.index.item_tree import ItemTree, Nodes
from recsys.index.ordering import best_first
from recsys.types import Deadline, Floats, RowMask, Rows


class NodeScorer(Protocol):
    """What one user makes of the nodes of a tree."""

    def scores(self, level: int, nodes: Nodes) -> Floats:
        """(M,) score of each node, larger is better.

        A search asks for one level after another, downwards; a scorer may prepare the lower ones at the first call.

        Args:
            level: of the nodes; at the last one all of them are leaves.
            nodes: (M,) of that level, each once; not to be changed.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search found for one user.

    Attributes:
        rows: at most k, by (score descending, row ascending).
        scores: of the rows; where the search was stopped, of the nodes that they were taken from.
        nodes_scored: how many.
        stopped_at: the level that a search reached which ran out of time before the leaves; None = it did not.
    """

    rows: Rows
    scores: Floats
    nodes_scored: int
    stopped_at: int | None = None


class TreeSearch:
    """Searches a tree for users, with one scorer a user.

    Only nodes with an eligible leaf below are kept (`EligibleNodes`, `Exclusions`), so that a beam at least k wide
    ends with k eligible rows whenever there are that many. The search begins with the first level that has more of
    them than the beam is wide: above it, a beam keeps everything. With a beam as wide as the widest level it is
    brute force; with scores that are no less than those of the leaves below, any beam of k is exact (Zhuo et al.
    2020, arXiv 2006.15408, section 3).

    Args:
        tree: the items.
    """

    def __init__(self, tree: ItemTree) -> None:
        self.tree = tree
        self._masked = MaskedNodes(tree)

    def search(
        self,
        scorer: NodeScorer,
        k: int,
        beam: int,
        allowed: RowMask | None = None,
        excluded: Rows | None = None,
        deadline: Deadline | None = None,
    ) -> Found:
        """The best rows for one user that a beam search finds.

        Args:
            scorer: of this user.
            k: rows wanted, at least 1.
            beam: nodes kept a level, at least 1; never fewer than k are.
            allowed: rows that may be returned; None = all.
            excluded: rows that this user may not get.
            deadline: once it has passed no further level is begun: of each of the best nodes one leaf is returned.
                One level is scored in any case.

        Raises:
            RequestError: for k or beam below 1.
            FeatureMismatchError: for a mask over another number of rows.
        """
        for name, value in (("k", k), ("beam", beam)):
            if value < 1:
                raise RequestError(name, value, "must be at least 1")
        width = max(k, beam)
        eligible = self._masked.of(allowed)
        level, nodes = eligible.first_level_above(width)
        exclusions = Exclusions(self.tree, eligible, excluded, level)
        nodes = exclusions.without(nodes, level)
        scores, scored = scorer.scores(level, nodes), len(nodes)
        while level < self.tree.depth:
            if deadline is not None and deadline.passed:
                nodes, scores = _best(nodes, scores, k)
                leaves = self._one_leaf_each(nodes, level, eligible, exclusions)
                return self._found(leaves, scores, k, scored, level)
            kept, _ = _best(nodes, scores, width)
            level += 1
            nodes = exclusions.without(eligible.among(self.tree.children(kept)), level)
            scores = scorer.scores(level, nodes)
            scored += len(nodes)
        return self._found(nodes, scores, k, scored, None)

    def _one_leaf_each(self, nodes: Nodes, level: int, eligible: EligibleNodes, exclusions: Exclusions) -> Nodes:
        """The leftmost eligible leaf below each node."""
        nodes = nodes.copy()
        for below in range(level + 1, self.tree.depth + 1):
            inner = nodes < self.tree.first_leaf
            left = 2 * nodes[inner] + 1
            usable = eligible.has(left) & exclusions.open(left, below)
            nodes[inner] = np.where(usable, left, left + 1)
        return nodes

    def _found(self, leaves: Nodes, scores: Floats, k: int, scored: int, stopped_at: int | None) -> Found:
        rows = self.tree.rows[leaves - self.tree.first_leaf]
        by_row = np.argsort(rows)
        best = by_row[best_first(scores[by_row])[:k]]
        return Found(rows[best], scores[best], scored, stopped_at)


def _best(nodes: Nodes, scores: Floats, count: int) -> tuple[Nodes, Floats]:
    """The best `count` nodes in any order, and their scores."""
    if len(nodes) <= count:
        return nodes, scores
    kept = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
    return nodes[kept], scores[kept]

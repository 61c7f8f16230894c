"""Scorers of which the right answer is known, and the formula of attention as a plain loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.index.item_tree import ItemTree, Nodes
from recsys.index.node_attention import NodeAttention
from recsys.types import Bools, Floats, Rows


class TableScorer:
    """Scores written down for every node; counts what is asked for."""

    def __init__(self, scores: NDArray[np.floating[Any]]) -> None:
        self.table = scores.astype(np.float32)
        self.asked: dict[int, list[int]] = {}

    def scores(self, level: int, nodes: Nodes) -> Floats:
        """See `NodeScorer.scores`."""
        assert level not in self.asked
        self.asked[level] = nodes.tolist()
        return self.table[nodes]

    @property
    def count(self) -> int:
        """Nodes asked for."""
        return sum(len(nodes) for nodes in self.asked.values())


def anyhow(tree: ItemTree, rng: np.random.Generator) -> TableScorer:
    """Nodes say nothing about what is below them."""
    return TableScorer(rng.standard_normal(tree.nodes))


def max_heap(tree: ItemTree, rng: np.random.Generator) -> TableScorer:
    """A node's score is the greatest of the leaves below it."""
    return TableScorer(tree.bottom_up(rng.permutation(tree.slots).astype(np.float32), np.maximum))


def eligible_rows(tree: ItemTree, allowed: Bools | None, excluded: list[int]) -> list[int]:
    """Rows that one user may get."""
    rows = [row for row in tree.rows.tolist() if row >= 0 and row not in excluded]
    return [row for row in rows if allowed is None or allowed[row]]


def brute_force(tree: ItemTree, scorer: TableScorer, rows: list[int], k: int) -> list[tuple[int, float]]:
    """The best k rows and their scores, by every leaf's score."""
    scored = [(-float(scorer.table[tree.leaves[row] + tree.first_leaf]), row) for row in rows]
    return [(row, -negated) for negated, row in sorted(scored)[:k]]


def attention(tree: ItemTree, seed: int = 0, dim: int = 6, bias: bool = False, attended: int = 5) -> NodeAttention:
    """Random weights, with logits large enough to feel the cap."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Floats:
        return rng.standard_normal(shape, dtype=np.float32)

    return NodeAttention(tree, draw(tree.nodes, dim + bias), draw(dim, dim), draw(dim, dim), draw(attended), 2.0)


def score_by_loop(model: NodeAttention, user: Floats, history: Rows, level: int, node: int) -> float:
    """e_u·n + Σ a_i (n·V h_i), a = softmax(cap·tanh(n·K h_i / cap) + w[age_i]), in float64."""
    dim = len(model.keys)
    n = model.nodes[node].astype(np.float64)
    logits, gains = [], []
    for age, row in enumerate(history[::-1][: model.attended]):
        h = model.nodes[int(model.tree.ancestors(np.array([row]), level)[0])].astype(np.float64)[:dim]
        logits.append(model.cap * math.tanh(float(n[:dim] @ model.keys @ h) / model.cap) + float(model.age_weight[age]))
        gains.append(float(n[:dim] @ model.values @ h))
    score = float(user @ n)
    total = sum(math.exp(logit) for logit in logits)
    return score + sum(math.exp(logit) / total * gain for logit, gain in zip(logits, gains, strict=True))

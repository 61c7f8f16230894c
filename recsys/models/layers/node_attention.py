"""Attention of a tree's nodes over a user's behaviours, folded into products of vectors (TDM, arXiv 1801.02294, §3.3).

What node n gets from behaviours h_1 … h_L of ages 1 = newest …:

    A(n) = Σ_i a_i · n·V h_i,   a = softmax_i(cap · tanh(n·K h_i / cap) + w[age_i])

A node asks with its own vector, so that a level of any width takes one product with K h_i and V h_i, which are made
once a user. The cap keeps every exponential within e^±cap: sums need no maximum taken off first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_DECAY = 0.05
"""How much less a behaviour one older counts at the start, in nats."""


class NodeAttention(nn.Module):
    """The maps K and V, and how much an age counts.

    Both maps start as the identity, V twice that: a node attends to behaviours like itself, and is worth its likeness
    to them. (On ML-100K V at 0.2, 1 and 2 gave an NDCG@10 of .066, .071 and .073 after four epochs.)

    Args:
        dim: width d.
        attended: newest behaviours looked at.
        cap: bound of the scores before the softmax; at most 40, see `recsys.models.prefix_scores`.
    """

    def __init__(self, dim: int, attended: int, cap: float) -> None:
        super().__init__()
        self.cap = cap
        self.key = nn.Parameter(torch.eye(dim))
        self.value = nn.Parameter(2.0 * torch.eye(dim))
        self.age_weight = nn.Parameter(-_DECAY * torch.arange(attended))

    @property
    def attended(self) -> int:
        """Newest behaviours looked at."""
        return len(self.age_weight)

    def sides(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of behaviours (…, d) → K h and V h, (…, d) each."""
        return vectors @ self.key.T, vectors @ self.value.T

    def age_factors(self, age: Tensor) -> Tensor:
        """Ages (…), 1 = newest → (…) what a share is multiplied by; 0 for what is too old, or not there (age < 1)."""
        there = (age >= 1) & (age <= self.attended)
        factors = self.age_weight.exp()[(age - 1).clamp(0, self.attended - 1)]
        return factors * there

    def prefix_factors(self, length: int) -> Tensor:
        """(L + 1, L) `age_factors` of L behaviours, oldest first, for a user who has had the first t of them."""
        place = torch.arange(length + 1, device=self.age_weight.device)
        return self.age_factors(place[:, None] - place[:-1])

    def forward(self, nodes: Tensor, behaviours: Tensor, factors: Tensor) -> Tensor:
        """A(n) of nodes for B users, (B, M).

        Both maps are taken to the nodes, n·K h = (n K)·h, which are mostly fewer than all users' behaviours.

        Args:
            nodes: (M, d) or (B, M, d) vectors, without bias.
            behaviours: (B, L, d) h.
            factors: (B, L) by age; 0 = no behaviour. A user without any gets 0.
        """
        logits = behaviours @ (nodes @ self.key).mT
        shares = (self.cap * torch.tanh(logits / self.cap)).exp() * factors.unsqueeze(2)
        gains = behaviours @ (nodes @ self.value).mT
        total = shares.sum(dim=1)
        return (shares * gains).sum(dim=1) / total.masked_fill(total == 0, 1.0)

"""What behaviours and nodes give each other in attention, before anybody's ages weigh it, with its gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LevelTable:
    """Vectors of the nodes of one level that a batch meets.

    Attributes:
        vectors: (Q, d_out), by what a user's vector is multiplied.
        keys, values: (Q, d), K h and V h of each as a behaviour.
    """

    vectors: Tensor
    keys: Tensor
    values: Tensor

    def scaled(self, times: Tensor) -> LevelTable:
        """The same with what attention adds multiplied, as users' vectors are that are over a temperature."""
        return replace(self, values=self.values * times)


class BehaviourPairs:
    """E = exp(cap · tanh(S / cap)) and E ∘ G for n behaviours and m nodes, with S = n·K h and G = n·V h.

    Args:
        table: of the level.
        behaviours: (n,) places in the table, -1 = no behaviour: its E is 0.
        nodes: (m,) places in the table.
        cap: of the attention.

    Attributes:
        parts: (n, 2, m) E ∘ G, then E.
    """

    def __init__(self, table: LevelTable, behaviours: Tensor, nodes: Tensor, cap: float) -> None:
        absent = behaviours < 0
        self._behaviours, self._nodes = behaviours.clamp(min=0), nodes
        self._keys, self._values = table.keys[self._behaviours], table.values[self._behaviours]
        self._bare = table.vectors[nodes, : self._keys.shape[1]]
        self._curve = (self._keys @ self._bare.T).div_(cap).tanh_()
        self._gains = self._values @ self._bare.T
        self.parts = self._gains.new_empty(len(behaviours), 2, len(nodes))
        shares = torch.mul(self._curve, cap, out=self.parts[:, 1]).exp_()
        if absent.any():
            shares[absent] = 0.0
        torch.mul(shares, self._gains, out=self.parts[:, 0])

    def add_gradient(self, slope: Tensor, grads: LevelTable) -> None:
        """Adds to a table of gradients what a slope of the parts, (n, 2, m), is of what they were made of.

        `slope` is computed in.
        """
        of_gains = slope[:, 0].mul_(self.parts[:, 1])
        of_scores = slope[:, 1].mul_(self.parts[:, 1]).addcmul_(of_gains, self._gains)
        of_scores.addcmul_(of_scores, self._curve.square_(), value=-1.0)
        nodes = (of_scores.T @ self._keys).addmm_(of_gains.T, self._values)
        grads.vectors[:, : nodes.shape[1]].index_add_(0, self._nodes, nodes)
        grads.keys.index_add_(0, self._behaviours, of_scores @ self._bare)
        grads.values.index_add_(0, self._behaviours, of_gains @ self._bare)

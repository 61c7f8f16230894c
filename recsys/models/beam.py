"""The beam search that serves a tree, in torch and for many rows at once: which nodes it scores at each level."""

from __future__ import annotations

import torch
from torch import Tensor


def best_nodes(nodes: Tensor, scores: Tensor, width: int, *, ordered: bool = True) -> Tensor:
    """(R, min(width, C)) the nodes (R, C) with the highest scores; -1 where there are no more.

    Best first, or (in half the time) in any order.
    """
    known = scores.masked_fill(nodes < 0, -torch.inf)
    best, place = known.topk(min(width, nodes.shape[1]), dim=1, sorted=ordered)
    return nodes.gather(1, place).masked_fill_(best == -torch.inf, -1)


def children(nodes: Tensor, inner: int, live: Tensor | None = None) -> Tensor:
    """(R, 2C) children of nodes (R, C) of one level of a heap-ordered tree.

    Args:
        nodes: -1 = none.
        inner: how many inner nodes there are; a leaf among `nodes` stays, as in the last level.
        live: (2S - 1,) nodes with an item below; None = all.

    Returns:
        -1 where there is none.
    """
    left = torch.where(nodes < inner, 2 * nodes + 1, nodes)
    right = torch.where(nodes < inner, 2 * nodes + 2, -1)
    found = torch.stack([left, right], dim=2).flatten(1).masked_fill_((nodes < 0).repeat_interleave(2, dim=1), -1)
    if live is not None:
        found.masked_fill_(~live[found], -1)
    return found

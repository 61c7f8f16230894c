"""What a node should score so that a beam is right: the label of the leaf that the model itself would go down to.

OTM (Zhuo et al. 2020, arXiv 2006.15408, §4.2): ẑ of a leaf is its label, and ẑ of an inner node that of its child with
the higher score. With the chance that any leaf below is relevant, as TDM has it, even exact scores lead a beam astray.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pseudo_targets(scores: Tensor, labels: Tensor) -> Tensor:
    """(B, 2S - 1) ẑ of all nodes of a heap-ordered tree over S leaves; of two equal children the left one counts.

    Args:
        scores: (B, 2S - 1) of the model, without gradient.
        labels: (B, S) of the leaves.
    """
    inner = labels.shape[1] - 1
    targets = torch.empty_like(scores, dtype=labels.dtype)
    targets[:, inner:] = labels
    for first, stop in _levels_upwards(inner):
        left, right = slice(2 * first + 1, 2 * stop, 2), slice(2 * first + 2, 2 * stop + 1, 2)
        higher = scores[:, left] >= scores[:, right]
        targets[:, first:stop] = torch.where(higher, targets[:, left], targets[:, right])
    return targets


def any_below(labels: Tensor) -> Tensor:
    """(B, 2S - 1) whether any leaf below a node has its label, TDM's target; labels (B, S)."""
    inner = labels.shape[1] - 1
    targets = torch.empty(len(labels), 2 * inner + 1, dtype=labels.dtype, device=labels.device)
    targets[:, inner:] = labels
    for first, stop in _levels_upwards(inner):
        torch.maximum(
            targets[:, 2 * first + 1 : 2 * stop : 2],
            targets[:, 2 * first + 2 : 2 * stop + 1 : 2],
            out=targets[:, first:stop],
        )
    return targets


def targets_on_path(path: Tensor, siblings: Tensor) -> Tensor:
    """ẑ of the ancestors of the only relevant leaf; of every other node it is 0.

    Args:
        path: (R, D) the model's scores of the leaf's ancestors at levels 1 … D, the leaf last.
        siblings: (R, D) of the other child of each one's parent, -inf where there is none.

    Returns:
        (R, D) bool: whether the model would go down from there to the leaf.
    """
    wins = path >= siblings
    below = torch.cat([wins[:, 1:], torch.ones_like(wins[:, :1])], dim=1)
    return below.flip(1).cumprod(dim=1).flip(1).bool()


def _levels_upwards(inner: int) -> list[tuple[int, int]]:
    """First inner node of each level and the one behind its last, the deepest first."""
    depth = inner.bit_length()
    return [((1 << level) - 1, min((2 << level) - 1, inner)) for level in reversed(range(depth))]

"""What nodes of a level lose by their scores, and its slope: softmax against the others (TDM), or pseudo-targets (OTM).

Each is asked sequence by sequence (see `recsys.models.prefix_scores`): scores (T, M) of the sequence's M columns after
its T prefixes come in, the summed loss goes out, and its gradient is left in place of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_NEVER = -1e9
"""A logit whose share is zero."""
_FAR, _HALVINGS = 20.0, 20
"""How far beyond all scores an intercept is looked for, and how closely: to 1e-4 of a nat where scores are alike."""


@dataclass(frozen=True, eq=False)
class LevelSoftmax:
    """Cross-entropy of the positive among a sequence's columns.

    Where columns are a sample of the level, each stands for so many nodes: the softmax's sum is then an estimate
    without bias of the one over the whole level.

    Attributes:
        bounds: B + 1 places in the rows, one sequence from each to the next.
        positive: (R,) each row's positive, as one of its sequence's columns; that column stands for itself.
        log_weight: (M,) logarithm of how many nodes a column stands for; None = each for itself.
        had: by sequence, (M_b,) the place of its behaviours where a column first stands; rows whose prefix is longer
            are not told from it. None = all rows are told from all.
        length: (R,) lengths of the prefixes, for `had`.
    """

    bounds: Sequence[int]
    positive: Tensor
    log_weight: Tensor | None = None
    had: Sequence[Tensor] | None = None
    length: Tensor | None = None

    def __call__(self, scores: Tensor, b: int) -> Tensor:
        """The summed loss of sequence b; the slope is left in `scores`."""
        rows = slice(self.bounds[b], self.bounds[b + 1])
        positive = self.positive[rows, None]
        if self.log_weight is not None:
            scores += self.log_weight
        if self.had is not None and self.length is not None:
            own = scores.gather(1, positive)
            scores.masked_fill_(self.had[b] < self.length[rows, None], _NEVER).scatter_(1, positive, own)
        torch.softmax(scores, dim=1, out=scores)
        share = scores.gather(1, positive)
        scores.scatter_(1, positive, share - 1.0)
        return share.clamp_(min=torch.finfo(scores.dtype).tiny).log_().sum().neg_()


@dataclass(frozen=True, eq=False)
class CandidateLoss:
    """Binary cross-entropy of the candidates of each prefix's beam against their pseudo-targets (OTM, Algorithm 1).

    Attributes:
        bounds: B + 1 places in the rows, one sequence from each to the next.
        candidates: (R, C) columns that are a row's candidates, M where it has fewer.
        hit: (R,) the column whose pseudo-target is 1, M where none is.
        intercept: what is taken off all scores.
    """

    bounds: Sequence[int]
    candidates: Tensor
    hit: Tensor
    intercept: Tensor

    def __call__(self, scores: Tensor, b: int) -> Tensor:
        """The summed loss of sequence b; the slope is left in `scores`."""
        rows = slice(self.bounds[b], self.bounds[b + 1])
        asked = scores.new_zeros(len(scores), scores.shape[1] + 1).scatter_(1, self.candidates[rows], 1.0)
        wanted = torch.zeros_like(asked).scatter_(1, self.hit[rows, None], 1.0).mul_(asked)[:, :-1]
        asked = asked[:, :-1]
        scores -= self.intercept
        loss = (asked * F.softplus(scores)).sum() - (wanted * scores).sum()
        scores.sigmoid_().mul_(asked).sub_(wanted)
        return loss


def fitted_intercept(scores: Tensor, positives: Tensor) -> Tensor:
    """What taken off all scores makes their chances σ(s) add up to the number of positives: BCE's best, a scalar.

    Args:
        scores: (n,), n ≥ 1.
        positives: a scalar; counted as half of one at least, and at most as half of one less than n.
    """
    wanted = positives.clamp(0.5, max(0.5, len(scores) - 0.5))
    low, high = scores.min() - _FAR, scores.max() + _FAR
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_many = torch.sigmoid(scores - middle).sum() > wanted
        low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
    return (low + high) / 2

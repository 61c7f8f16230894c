"""Dropout whose mask is drawn a byte an element: on a CPU several times faster than torch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 256


class Dropout(nn.Module):
    """As `torch.nn.Dropout`, with the rate rounded to a multiple of 1/256 on a CPU.

    torch draws one double a number there, which made dropout a quarter of a training step.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.threshold = round(rate * _LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`; elements are zeroed at `rate` and the others scaled up, in training only."""
        if not self.training or self.threshold == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        return x * self._mask(x)

    def _mask(self, x: Tensor) -> Tensor:
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - self.threshold))

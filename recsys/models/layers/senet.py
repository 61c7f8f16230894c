"""SENet: re-weights the fields of one tower by how strong each is for this sample (FiBiNET, arXiv 1905.09433)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_TINY = 1e-6
"""Keeps the scale of an all-zero field (padding) finite; far below the square of any embedding."""


class SENet(nn.Module):
    """Squeeze, excite, re-weight: field i is multiplied by s_i in (0, 2).

    z_i = mean(e_i / rms(e_i)); s = 2·sigmoid(W2·relu(W1·z)). W2 starts at zero and has no bias, so every weight
    starts at exactly 1. The paper ends in a ReLU instead, which can shut a field for good.

    The paper squeezes e_i as it is. Embeddings that start at a standard deviation of a hundredth then have means of a
    thousandth, the gate's slope is as small, and it stays at 1 however long it is trained: so the squeeze is of each
    field at unit scale.

    Args:
        fields: number of fields F.
        reduction: the excitation's bottleneck has max(1, F // reduction) units.
    """

    def __init__(self, fields: int, reduction: int = 3) -> None:
        super().__init__()
        hidden = max(1, fields // reduction)
        self.squeeze = nn.Linear(fields, hidden, bias=False)
        self.excite = nn.Linear(hidden, fields, bias=False)
        nn.init.zeros_(self.excite.weight)

    def weights(self, fields: Tensor) -> Tensor:
        """The weights s of fields (…, F, d), as (…, F)."""
        return self.gate(squeezed(fields))

    def gate(self, z: Tensor) -> Tensor:
        """The weights s of fields squeezed to z (…, F), as (…, F)."""
        return 2.0 * torch.sigmoid(self.excite(torch.relu(self.squeeze(z))))

    def forward(self, fields: Tensor) -> Tensor:
        """(…, F, d) → (…, F, d)."""
        return fields * self.weights(fields).unsqueeze(-1)


def squeezed(fields: Tensor) -> Tensor:
    """Vectors (…, d) to (…): z, the mean of each at unit scale."""
    return fields.mean(dim=-1) * fields.square().mean(dim=-1).add(_TINY).rsqrt()

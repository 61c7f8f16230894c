"""SENet: re-weights the fields of one tower by how strong each is for this sample (FiBiNET, arXiv 1905.09433)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SENet(nn.Module):
    """Squeeze, excite, re-weight: field i is multiplied by s_i in (0, 2).

    z_i = mean(e_i); s = 2·sigmoid(W2·relu(W1·z)). W2 starts at zero and has no bias, so every weight starts
    at exactly 1. The paper ends in a ReLU instead, which can shut a field for good.

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
        """S for fields of shape (…, F, d), as (…, F)."""
        return 2.0 * torch.sigmoid(self.excite(torch.relu(self.squeeze(fields.mean(dim=-1)))))

    def forward(self, fields: Tensor) -> Tensor:
        """(…, F, d) → (…, F, d)."""
        return fields * self.weights(fields).unsqueeze(-1)

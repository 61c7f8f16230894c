"""A tower: the fields of one side, re-weighted by SENet, mixed into one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.layers.dropout import Dropout
from recsys.models.layers.senet import SENet, squeezed


class Tower(nn.Module):
    """SENet over F fields, their concatenation through an MLP, added to the tower's main field.

    The last layer starts at zero where there is a main field (the history's state, the item's id): the tower starts
    as that field alone and learns what the others add. A single field passes through as it is.

    Args:
        fields: F ≥ 1.
        dim: width d.
        main: whether field 0 is a main field.
        dropout: rate inside the MLP.
    """

    def __init__(self, fields: int, dim: int, *, main: bool, dropout: float) -> None:
        super().__init__()
        self.main = main
        self.senet = SENet(fields) if fields > 1 else None
        self.widen = nn.Linear(fields * dim, 2 * dim)
        self.narrow = nn.Linear(2 * dim, dim)
        self.drop = Dropout(dropout)
        if main:
            nn.init.zeros_(self.narrow.weight)
            nn.init.zeros_(self.narrow.bias)

    def forward(self, fields: Tensor) -> Tensor:
        """(…, F, d) → (…, d)."""
        if self.senet is None and self.main:
            return fields[..., 0, :]
        weighted = fields if self.senet is None else self.senet(fields)
        mixed: Tensor = self.narrow(self.drop(F.gelu(self.widen(weighted.flatten(-2)))))
        return fields[..., 0, :] + mixed if self.main else mixed.to(fields.dtype)  # autocast may have narrowed it

    def along(self, main: Tensor, others: Tensor) -> Tensor:
        """As `forward` at each of T places that share all fields but the main one.

        What is shared is multiplied by its part of the first layer once, not T times: with weights s,
        W·concat(s_f·e_f) = Σ_f s_f·(W_f·e_f).

        Args:
            main: (B, T, d).
            others: (B, F - 1, d).

        Returns:
            (B, T, d).
        """
        if self.senet is None:
            return main
        z = torch.cat([squeezed(main).unsqueeze(-1), squeezed(others)[:, None].expand(-1, main.shape[1], -1)], dim=-1)
        weights = self.senet.gate(z)
        by_field = self.widen.weight.view(len(self.widen.weight), -1, main.shape[-1])
        first, rest = by_field[:, 0], by_field[:, 1:]
        hidden = F.linear(main * weights[..., :1], first, self.widen.bias)
        hidden = hidden + weights[..., 1:] @ torch.einsum("bfd,hfd->bfh", others, rest)
        out: Tensor = main + self.narrow(self.drop(F.gelu(hidden)))
        return out

"""Label-aware attention: which of a user's interests a target trains (MIND, arXiv 1904.08030, §3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

_NEVER = -1e9


def label_aware(users: Tensor, positives: Tensor, power: float | None = None) -> Tensor:
    """The interests of each row mixed into one vector by how well they suit its target.

    Shares are softmax(p·u_j·e). The paper raises u_j·e to the power p before the softmax, which an even p turns
    around: -.9 then outweighs .5.

    Args:
        users: (R, K, d); an interest that is the first once more is none, and has no share.
        positives: (R, d), the target of each row.
        power: p; None = ∞, the interest that suits best alone.

    Returns:
        (R, d).
    """
    products = (users @ positives.unsqueeze(2)).squeeze(2)
    if power is None:
        return users[torch.arange(len(users), device=users.device), products.argmax(dim=1)]
    repeated = (users == users[:, :1]).all(dim=2)
    repeated[:, 0] = False
    shares = torch.softmax((power * products).masked_fill(repeated, _NEVER), dim=1)
    return (shares.unsqueeze(1) @ users).squeeze(1)

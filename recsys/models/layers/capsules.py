"""Interest capsules: a history routed into a few interests (MIND, arXiv 1904.08030, §3.2)."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Routing: TypeAlias = Literal["cosine", "accumulate"]

SHARPNESS: Final = 20.0
"""What the cosine between an interest and a behaviour is multiplied by to be a routing logit."""

_SEED: Final = 190408030
_NEVER: Final = -1e9
"""A logit whose share is zero; finite, so that a place that sees nothing has no NaN."""
_TINY: Final = 1e-12


class InterestCapsules(nn.Module):
    """Behaviour-to-interest routing with one shared bilinear map S.

    The routing weights of a behaviour are a softmax over the interests; those beyond K' take no part in it. They
    start from fixed random directions, the same in training and serving, so that an interest depends on what a
    history holds and not on where in a buffer; and they are constants of the gradient.

    Args:
        dim: width d.
        interests: K, the most a user has.
        iterations: of the routing.
        routing: "cosine" replaces the logits by 20·cos(u_j, ê_i), which tells interests apart whatever the
            behaviours' norms; "accumulate" adds u_j·ê_i to them, as the paper does.
    """

    directions: Tensor
    needed: Tensor

    def __init__(self, dim: int, interests: int, iterations: int = 3, routing: Routing = "cosine") -> None:
        super().__init__()
        self.iterations, self.routing = iterations, routing
        self.shared = nn.Linear(dim, dim, bias=False)
        generator = torch.Generator().manual_seed(_SEED)
        self.register_buffer("directions", torch.randn(interests, dim, generator=generator), persistent=False)
        # Interest j, from 0, is there when ⌊log2(length)⌋ > j; the first always is.
        lengths = [0, *(2 ** (j + 1) for j in range(1, interests))]
        self.register_buffer("needed", torch.tensor(lengths), persistent=False)

    def forward(self, behaviours: Tensor, counts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Interests of T places that look at one history each in their own way.

        Args:
            behaviours: (B, L, d), in any order.
            counts: (B or 1, T, L) how much of each behaviour a place takes; 0 = nothing, as of padding.
            lengths: (B or 1, T) how many behaviours a place sees.

        Returns:
            (B, T, K, d) interests of norm below 1, zeros where there are none, and (B or 1, T, K) bool: which there
            are, the first K' = max(1, min(K, ⌊log2(length)⌋)).
        """
        there = lengths.unsqueeze(-1) >= self.needed
        closed = torch.where(there, 0.0, _NEVER).unsqueeze(-1)
        counts = counts.unsqueeze(2)
        mapped = self.shared(behaviours)
        with torch.no_grad():
            scale = mapped.square().sum(dim=-1).add(_TINY).rsqrt()[:, None, None]
            logits = (self.directions @ mapped.transpose(1, 2)).unsqueeze(1) * scale
            for _ in range(self.iterations - 1):
                summed = self._summed(logits + closed, counts, mapped)
                if self.routing == "cosine":
                    logits = _products(SHARPNESS * F.normalize(summed, dim=-1), mapped) * scale
                else:
                    logits = logits + _products(squash(summed), mapped)
        return squash(self._summed(logits + closed, counts, mapped)) * there.unsqueeze(-1), there

    def _summed(self, logits: Tensor, counts: Tensor, mapped: Tensor) -> Tensor:
        """z, the sums of the behaviours by their routing weights: (B, T, K, d)."""
        return _products(torch.softmax(logits, dim=2) * counts, mapped.transpose(1, 2))


def _products(left: Tensor, right: Tensor) -> Tensor:
    """(B, T, K, a) and (B, b, a) → (B, T, K, b), in one product of matrices a history.

    One place, which is what is served, needs no reshaping: an exported graph is shorter by many small nodes.
    """
    batch, places, interests, _ = left.shape
    if places == 1:
        return torch.matmul(left.squeeze(1), right.transpose(1, 2)).unsqueeze(1)
    products = torch.matmul(left.flatten(1, 2), right.transpose(1, 2))
    return products.view(batch, places, interests, right.shape[1])


def squash(z: Tensor) -> Tensor:
    """‖z‖²/(1 + ‖z‖²) · z/‖z‖ along the last axis; 0 stays 0."""
    square = z.square().sum(dim=-1, keepdim=True)
    return z * (square / (1.0 + square)) * torch.rsqrt(square + _TINY)

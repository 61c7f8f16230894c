"""A block of causal self-attention, and two ways to tell places apart: their distance, and what stands just before."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.layers.dropout import Dropout

_SLOWEST: Final = 1000.0
"""Places that the slowest pair of coordinates takes for one radian; histories are some hundred items long."""


class CausalMix(nn.Module):
    """Every place plus what stood up to `taps` places before it, weighed entry by entry.

    A causal depthwise convolution, whose newest tap is the identity; it starts as that alone. What comes next
    depends on the last few items and their order, of which the mean that attention takes keeps little.

    Args:
        dim: width d.
        taps: places looked back at.
    """

    def __init__(self, dim: int, taps: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(taps, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) → (B, T, d); a place of zeros, as is before the first one, adds nothing to any."""
        mixed, places, taps = x, x.shape[1], len(self.weights)
        before = F.pad(x, (0, 0, taps, 0))
        for back, weight in enumerate(self.weights, start=1):
            mixed = mixed + before[:, taps - back : taps - back + places] * weight
        return mixed


class Rotation(nn.Module):
    """Turns pairs of coordinates by an angle that grows with the place, so that products know only distances.

    RoFormer (arXiv 2104.09864, section 3.2), with coordinate i paired with i + width / 2.

    Args:
        width: of a head; even.
        length: places T at most.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        half = width // 2
        angles = torch.arange(length)[:, None] * _SLOWEST ** -(torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """(B, heads, T, width) at places (T,) or (B, T) → the same, turned."""
        cos, sin = (F.embedding(place, table).unsqueeze(-3) for table in (self.cos, self.sin))
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)).

    Args:
        dim, heads: width d and attention heads.
        dropout: on each residual branch and inside the feed-forward part.
        widening: inner width of the feed-forward part over d.
        rotation: of queries and keys; None = none.
    """

    def __init__(self, dim: int, heads: int, dropout: float, widening: int, rotation: Rotation | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.rotation = rotation
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, widening * dim)
        self.narrow = nn.Linear(widening * dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """(B, T, d) at places (T,) → (B, T, d), causal, no padding before any place that matters."""
        normed = self.norm(x)
        query = self._turned(self._split(self.query(normed)), place)
        key, value = self._keys_and_values(normed, place)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.drop(self.out(self._join(attended)))
        return self._feed_forward(x)

    def masked(self, x: Tensor, place: Tensor, context: Tensor, context_place: Tensor, mask: Tensor) -> Tensor:
        """Places (B, Q) of x (B, Q, d) attend to those (B, T) of a context (B, T, d); mask is added to the scores.

        Each head has products of its own, which leaves nothing to split and little to transpose. The values' bias adds
        the same to every mean of values, so that it is added behind them; the keys' adds the same to all scores of a
        query, unless keys are turned.
        """
        dim, split = x.shape[-1], (self.heads, 1, -1)
        key_bias, value_bias = self.key_value.bias.chunk(2)
        to_key, to_value = self.key_value.weight.chunk(2)
        normed = self.norm(context).unsqueeze(1)
        query = self.norm(x).unsqueeze(1) @ self._by_head(self.query.weight) + self.query.bias.view(split)
        key, value = normed @ self._by_head(to_key), normed @ self._by_head(to_value)
        if self.rotation is not None:
            query, key = self.rotation(query, place), self.rotation(key + key_bias.view(split), context_place)
        query = query / math.sqrt(dim // self.heads)
        attended = self._join(torch.softmax(query @ key.transpose(-1, -2) + mask, dim=-1) @ value)
        bias = F.linear(value_bias, self.out.weight, self.out.bias)
        x = x + F.linear(attended.flatten(0, 1), self.out.weight, bias).view_as(x)
        return self._feed_forward(x)

    def _by_head(self, weight: Tensor) -> Tensor:
        """(d, d) of a linear map → (heads, d, d / heads), what each head is multiplied by."""
        return weight.view(self.heads, -1, weight.shape[1]).transpose(1, 2)

    def at_one_place(self, x: Tensor, place: Tensor, context: Tensor, context_place: Tensor, mask: Tensor) -> Tensor:
        """As `masked` for one place, x (B, 1, d) with mask (B, 1, 1, T).

        One query is mapped back through the keys' map, and one weighted mean on through the values', rather than every
        place through both: q·(K n) = (Kᵀ q)·n, and what q·b adds is the same for all. Where keys are turned by their
        place, this cannot be.
        """
        if self.rotation is not None:
            return self.masked(x, place, context, context_place, mask)
        normed = self.norm(context)
        width = x.shape[-1] // self.heads
        to_key, to_value = self.key_value.weight.view(2, self.heads, width, -1).unbind()
        query = (self.query(self.norm(x)) / math.sqrt(width)).view(-1, self.heads, 1, width)
        scores = (query @ to_key)[:, :, 0] @ normed.transpose(1, 2)
        seen = torch.softmax(scores + mask[:, :, 0], dim=-1) @ normed
        value = (seen[:, :, None] @ to_value.transpose(1, 2)).view(-1, 1, x.shape[-1])
        x = x + self.out(value + self.key_value.bias[x.shape[-1] :])
        return self._feed_forward(x)

    def _keys_and_values(self, normed: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(normed).chunk(2, dim=-1)
        return self._turned(self._split(key), place), self._split(value)

    def _turned(self, x: Tensor, place: Tensor) -> Tensor:
        return x if self.rotation is None else self.rotation(x, place)

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = self.drop(F.gelu(self.widen(self.feed_norm(x))))
        out: Tensor = x + self.drop(self.narrow(inner.flatten(0, 1)).view_as(x))
        return out

    def _split(self, x: Tensor) -> Tensor:
        batch, places, dim = x.shape
        return x.view(batch, places, self.heads, dim // self.heads).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

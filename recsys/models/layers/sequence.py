"""History encoders: what a user did, as one vector after every step of it.

Each encoder has two faces with equal answers. `states` is for training: histories right-padded, so that causal
attention needs no mask and takes the fast kernel, and one pass gives the state after each prefix. `last` is for
serving and export: histories left-padded with an age (1 = newest, 0 = padding), only the newest state computed.
A learned start vector stands before every history; it is all that an empty one has.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from recsys.models.layers.dropout import Dropout

_HIDDEN = -1e9
"""Added to the score of a place that must not be seen."""


class MeanPooling(nn.Module):
    """The mean of a history's vectors; the start vector for an empty history.

    Args:
        dim: width d.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(dim))

    def states(self, vectors: Tensor) -> Tensor:
        """(B, L, d) right-padded → (B, L + 1, d): entry t is the mean of the first t vectors."""
        batch, length, dim = vectors.shape
        counts = torch.arange(1, length + 1, device=vectors.device, dtype=vectors.dtype)
        means = vectors.cumsum(dim=1) / counts[:, None]
        return torch.cat([self.start.expand(batch, 1, dim), means], dim=1)

    def last(self, vectors: Tensor, age: Tensor) -> Tensor:
        """(B, L, d) left-padded with age (B, L) → (B, d)."""
        present = (age > 0).to(vectors.dtype).unsqueeze(-1)
        count = present.sum(dim=1)
        mean = (vectors * present).sum(dim=1) / count.clamp(min=1.0)
        return torch.where(count > 0, mean, self.start)


class CausalAttention(nn.Module):
    """Pre-norm blocks of causal self-attention over start vector and history (SASRec, arXiv 1808.09781).

    Args:
        dim: width d.
        length: the longest history L; places beyond it have no position vector.
        blocks, heads: of the transformer.
        dropout: on the input and on each residual branch, none on the attention weights.
        widening: inner width of the feed-forward part over d.
        recompute: whether training computes the inside of a block a second time on the way back, rather than keep it
            (Chen et al. 2016, arXiv 1604.06174). The same numbers are dropped out both times.
    """

    later: Tensor

    def __init__(
        self,
        dim: int,
        length: int,
        blocks: int,
        heads: int,
        dropout: float,
        widening: int = 4,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.register_buffer("later", torch.ones(length + 1, length + 1, dtype=torch.bool).triu(1), persistent=False)
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.positions = nn.Embedding(length + 1, dim)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.drop = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, widening) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def states(self, vectors: Tensor) -> Tensor:
        """(B, L, d) right-padded → (B, L + 1, d): entry t has seen the first t vectors."""
        batch, length, dim = vectors.shape
        x = torch.cat([self.start.expand(batch, 1, dim), vectors], dim=1)
        x = self.drop(x + self.positions(torch.arange(length + 1, device=vectors.device)))
        for block in self._layers():
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and torch.is_grad_enabled() else block(x)
        states: Tensor = self.norm(x)
        return states

    def last(self, vectors: Tensor, age: Tensor) -> Tensor:
        """(B, L, d) left-padded with age (B, L) → (B, d); the top block computes one place only."""
        batch, length, dim = vectors.shape
        newest_first = age.max(dim=1, keepdim=True).values - age + 1
        place = torch.where(age > 0, newest_first, torch.zeros_like(age))
        start = (self.start + self.positions.weight[0]).expand(batch, 1, dim)
        x = torch.cat([start, vectors + self.positions(place)], dim=1)
        hidden = torch.where(age > 0, 0.0, _HIDDEN)
        hidden = torch.cat([hidden.new_zeros((batch, 1)), hidden], dim=1)[:, None, None, :]
        mask = torch.where(self.later[: length + 1, : length + 1], _HIDDEN, hidden)
        *lower, highest = self._layers()
        for block in lower:
            x = block.masked(x, x, mask)
        # An empty history ends at the start vector; any other ends at its newest item, the last slot.
        top = torch.where((age > 0).any(dim=1, keepdim=True).unsqueeze(-1), x[:, -1:], x[:, :1])
        x_last = highest.masked(top, x, hidden)
        newest: Tensor = self.norm(x_last[:, 0])
        return newest

    def _layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, dim: int, heads: int, dropout: float, widening: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, widening * dim)
        self.narrow = nn.Linear(widening * dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) → (B, T, d), causal, no padding before any place that matters."""
        normed = self.norm(x)
        key, value = self.key_value(normed).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(normed)), self._split(key), self._split(value), is_causal=True
        )
        x = x + self.drop(self.out(self._join(attended)))
        return self._feed_forward(x)

    def masked(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """The places x (B, Q, d) attend to context (B, T, d); mask (…, Q or 1, T) is added to the scores."""
        key, value = self.key_value(self.norm(context)).chunk(2, dim=-1)
        query = self._split(self.query(self.norm(x))) / math.sqrt(x.shape[-1] // self.heads)
        weights = torch.softmax(query @ self._split(key).transpose(-1, -2) + mask, dim=-1)
        x = x + self.out(self._join(weights @ self._split(value)))
        return self._feed_forward(x)

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = self.drop(F.gelu(self.widen(self.feed_norm(x))))
        out: Tensor = x + self.drop(self.narrow(inner))
        return out

    def _split(self, x: Tensor) -> Tensor:
        batch, places, dim = x.shape
        return x.view(batch, places, self.heads, dim // self.heads).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

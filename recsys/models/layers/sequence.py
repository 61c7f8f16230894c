"""History encoders: what a user did, as one vector after every step of it.

Each encoder has two faces with equal answers. `states` is for training: histories right-padded, so that causal
attention needs no mask and takes the fast kernel, and one pass gives the state after each prefix. `last` is for
serving and export: histories left-padded with an age (1 = newest, 0 = padding), only the newest state computed.
A learned start vector stands before every history; it is all that an empty one has.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from recsys.models.layers.attention import Block, CausalMix, Rotation
from recsys.models.layers.dropout import Dropout
from recsys.models.layers.recency import RecencyEncoder

Positions: TypeAlias = Literal["absolute", "rotary", "none"]

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
        length: the longest history L; places beyond it have no position.
        blocks, heads: of the transformer.
        dropout: on the input and on each residual branch, none on the attention weights.
        widening: inner width of the feed-forward part over d.
        positions: "absolute" adds a learned vector for the place, counted from the oldest item; "rotary" turns queries
            and keys, so that scores depend on how far apart two items are (see `Rotation`); "none" leaves order to what
            causality and `convolution` tell of it.
        convolution: items just before that each item of the input is mixed with (see `CausalMix`).
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
        positions: Positions = "absolute",
        convolution: int = 0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.register_buffer("later", torch.full((length + 1, length + 1), _HIDDEN).triu(1), persistent=False)
        self.start = nn.Parameter(torch.randn(dim) * 0.02)
        self.positions = nn.Embedding(length + 1, dim) if positions == "absolute" else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)
        rotation = Rotation(dim // heads, length + 1) if positions == "rotary" else None
        self.mix = CausalMix(dim, convolution) if convolution else None
        self.drop = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, widening, rotation) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)

    def states(self, vectors: Tensor) -> Tensor:
        """(B, L, d) right-padded → (B, L + 1, d): entry t has seen the first t vectors."""
        place = torch.arange(vectors.shape[1] + 1, device=vectors.device)
        x = self.drop(self._started(vectors, place))
        for block in self._layers():
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, place, use_reentrant=False)
            else:
                x = block(x, place)
        states: Tensor = self.norm(x)
        return states

    def last(self, vectors: Tensor, age: Tensor) -> Tensor:
        """(B, L, d) left-padded with zeros, and age (B, L) → (B, d); the top block computes one place only."""
        length = age.shape[1]
        there = F.pad(age, (1, 0), value=1) > 0
        place = there.long().cumsum(dim=1) - 1
        hidden = torch.where(there, 0.0, _HIDDEN)[:, None, None, :]
        mask = self.later[: length + 1, : length + 1] + hidden
        x = self._started(vectors, place)
        *lower, highest = self._layers()
        for block in lower:
            x = block.masked(x, place, x, place, mask)
        # An empty history ends at the start vector; any other ends at its newest item, the last slot.
        newest, empty = place[:, -1:], ~there[:, 1:].any(dim=1, keepdim=True)
        top = torch.where(empty.unsqueeze(-1), x[:, :1], x[:, -1:])
        state: Tensor = self.norm(highest.at_one_place(top, newest, x, place, hidden)[:, 0])
        return state

    def _started(self, vectors: Tensor, place: Tensor) -> Tensor:
        """(B, L, d) → (B, L + 1, d): the start vector, then the input, mixed and with its places, (T,) or (B, T)."""
        start = self.start.expand(vectors.shape[0], 1, -1)
        x = torch.cat([start, vectors if self.mix is None else self.mix(vectors)], dim=1)
        return x if self.positions is None else x + self.positions(place)

    def _layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


class SummedEncoders(nn.Module):
    """The sum of what attention and profiles of recency make of a history.

    Profiles learn in an epoch what the newest items are worth, which attention takes many for; attention then adds what
    goes together. (On ML-1M the sum is ahead of attention alone from the first epoch to the last.)
    """

    def __init__(self, attention: CausalAttention, recency: RecencyEncoder) -> None:
        super().__init__()
        self.attention, self.recency = attention, recency

    def states(self, vectors: Tensor) -> Tensor:
        """(B, L, d) right-padded → (B, L + 1, d): entry t has seen the first t vectors."""
        states: Tensor = self.attention.states(vectors) + self.recency.states(vectors)
        return states

    def last(self, vectors: Tensor, age: Tensor) -> Tensor:
        """(B, L, d) left-padded with zeros, and age (B, L) → (B, d)."""
        return self.attention.last(vectors, age) + self.recency.last(vectors, age)

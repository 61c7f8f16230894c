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
        self.register_buffer("later", torch.ones(length + 1, length + 1, dtype=torch.bool).triu(1), persistent=False)
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
        batch, length, dim = vectors.shape
        x = torch.cat([self.start.expand(batch, 1, dim), vectors], dim=1)
        x = self.drop(self._placed(x, torch.arange(length + 1, device=vectors.device)))
        for block in self._layers():
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and torch.is_grad_enabled() else block(x)
        states: Tensor = self.norm(x)
        return states

    def last(self, vectors: Tensor, age: Tensor) -> Tensor:
        """(B, L, d) left-padded with age (B, L) → (B, d); the top block computes one place only."""
        length = vectors.shape[1]
        place = torch.arange(length + 1, device=age.device) - length + (age > 0).sum(dim=1, keepdim=True)
        present = (place >= 0).to(vectors.dtype).unsqueeze(-1)
        vectors = F.pad(vectors, (0, 0, 1, 0)) * present
        x = self._placed(torch.where((place == 0).unsqueeze(-1), self.start, vectors), place.clamp(min=0))
        hidden = torch.where(place >= 0, 0.0, _HIDDEN)[:, None, None, :]
        mask = torch.where(self.later[: length + 1, : length + 1], _HIDDEN, hidden)
        *lower, highest = self._layers()
        for block in lower:
            x = block.masked(x, x, mask)
        newest: Tensor = self.norm(highest.masked(x[:, -1:], x, hidden)[:, 0])
        return newest

    def _placed(self, x: Tensor, place: Tensor) -> Tensor:
        """Vectors (B, T, d) with what the input says of their places, (T,) or (B, T), and of those just before."""
        mixed = x if self.mix is None else self.mix(x)
        return mixed if self.positions is None else mixed + self.positions(place)

    def _layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

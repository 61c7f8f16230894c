"""The two-tower retriever: a user vector and an item vector whose product is the score.

Each tower sees its own side's fields, re-weighted by SENet (FiBiNET, arXiv 1905.09433). The history is a field of
the user tower, encoded after every step, so that one pass over a sequence trains on each of its places. One item
tower serves the history, the targets and the index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from recsys.models.layers.recency import RecencyEncoder
from recsys.models.layers.sequence import CausalAttention, MeanPooling, Positions, SummedEncoders
from recsys.models.layers.tower import Tower
from recsys.models.retriever import Retriever, RetrieverShape
from recsys.models.sequence_batch import SequenceBatch

HistoryEncoder: TypeAlias = Literal["attention", "recency", "attention+recency", "mean"]


@dataclass(frozen=True)
class TwoTowerShape(RetrieverShape):
    """Sizes and choices of a two-tower.

    Attributes:
        history: how the history is encoded, "attention+recency" as the sum of both; None = the user tower has
            attributes only.
        blocks, heads, positions, convolution: of the attention encoder (see `CausalAttention`).
        profiles: of the recency encoder (see `RecencyEncoder`).
        widening: inner width over `dim` of the attention encoder's feed-forward part, of the recency encoder's MLP.
        recompute: whether training computes the inside of attention blocks twice to save memory.
    """

    history: HistoryEncoder | None = "attention+recency"
    blocks: int = 2
    heads: int = 2
    profiles: int = 4
    widening: int = 2
    positions: Positions = "none"
    convolution: int = 3
    recompute: bool = False


class TwoTower(Retriever):
    """Both towers.

    Args:
        shape: sizes.
        item_index: (N,) item-id code of every catalogue row.
        items: encoded attributes of every catalogue row by field.

    Raises:
        ValueError: when a tower has nothing to see.
    """

    name = "two_tower"

    def __init__(self, shape: TwoTowerShape, item_index: Tensor, items: Mapping[str, Tensor]) -> None:
        super().__init__(shape, item_index, items)
        if shape.history is None and not shape.user_fields:
            raise ValueError("a user tower needs a history or an attribute")
        self._shape = shape
        self.history = _history_encoder(shape)
        self.user_tower = Tower(
            int(self.history is not None) + len(shape.user_fields),
            shape.dim,
            main=self.history is not None,
            dropout=shape.dropout,
        )

    @property
    def shape(self) -> TwoTowerShape:
        """See `Retriever.shape`."""
        return self._shape

    @property
    def reads_history(self) -> bool:
        """See `Retriever.reads_history`."""
        return self.history is not None

    def user_states(self, history: Tensor, user: Mapping[str, Tensor], places: Tensor | None = None) -> Tensor:
        """See `Retriever.user_states`: (B, P, d)."""
        attributes = self.user_attributes(user)
        if self.history is None:
            alike: Tensor = self.user_tower(attributes)
            return alike[:, None].expand(-1, history.shape[1] + 1 if places is None else len(places), -1)
        states = self.history.states(history)
        if places is not None:
            states = states.index_select(1, places)
        return states if attributes is None else self.user_tower.along(states, attributes)

    def newest_user_states(self, vectors: Tensor | None, age: Tensor | None, user: Mapping[str, Tensor]) -> Tensor:
        """See `Retriever.newest_user_states`: (B, d)."""
        encoded = []
        if self.history is not None and vectors is not None and age is not None:
            newest = self.shape.history_length
            encoded.append(self.history.last(vectors[:, -newest:], age[:, -newest:]).unsqueeze(1))
        attributes = self.user_attributes(user)
        if attributes is not None:
            encoded.append(attributes)
        state: Tensor = self.user_tower(torch.cat(encoded, dim=1))
        return state

    def field_weights(self, batch: SequenceBatch) -> dict[str, dict[str, float]]:
        """See `Retriever.field_weights`; one field alone has none."""
        found = {"item": self.items.field_weights(), "user": self._user_weights(batch)}
        return {tower: weights for tower, weights in found.items() if weights}

    def _user_weights(self, batch: SequenceBatch) -> dict[str, float]:
        attributes = self.user_attributes(batch.user)
        if self.user_tower.senet is None or attributes is None:
            return {}
        parts = [attributes[:, None].expand(-1, batch.targets.shape[1], -1, -1)]
        names = [field.name for field in self.shape.user_fields]
        if self.history is not None:
            rows, place = torch.unique(batch.history, return_inverse=True)
            parts.insert(0, self.history.states(self.items(rows)[0][place]).unsqueeze(2))
            names.insert(0, "history")
        weights = self.user_tower.senet.weights(torch.cat(parts, dim=2))[batch.targets >= 0]
        return dict(zip(names, weights.detach().mean(dim=0).tolist(), strict=True))


def _history_encoder(shape: TwoTowerShape) -> CausalAttention | RecencyEncoder | SummedEncoders | MeanPooling | None:
    if shape.history is None:
        return None
    if shape.history == "mean":
        return MeanPooling(shape.dim)
    if shape.history == "recency":
        return _recency(shape)
    if shape.history == "attention":
        return _attention(shape)
    return SummedEncoders(_attention(shape), _recency(shape))


def _recency(shape: TwoTowerShape) -> RecencyEncoder:
    return RecencyEncoder(shape.dim, shape.history_length, shape.profiles, shape.widening, shape.dropout)


def _attention(shape: TwoTowerShape) -> CausalAttention:
    return CausalAttention(
        shape.dim,
        shape.history_length,
        shape.blocks,
        shape.heads,
        shape.dropout,
        shape.widening,
        positions=shape.positions,
        convolution=shape.convolution,
        recompute=shape.recompute,
    )

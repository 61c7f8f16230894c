"""The two-tower retriever: a user vector and an item vector whose product is the score.

Each tower sees its own side's fields, re-weighted by SENet (FiBiNET, arXiv 1905.09433). The history is a field of
the user tower, encoded after every step, so that one pass over a sequence trains on each of its places. One item
tower serves the history, the targets and the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.feature_set import Field
from recsys.models.layers.fields import EMBEDDING_STD, FieldEmbeddings
from recsys.models.layers.sequence import CausalAttention, MeanPooling
from recsys.models.layers.tower import Tower

Similarity: TypeAlias = Literal["cosine", "dot"]

UNSEEN = 1
"""The item code of whatever training did not show."""

_COLDEST = 0.01
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class TwoTowerShape:
    """Sizes and choices that the weights depend on.

    Attributes:
        item_codes: size of the item-id vocabulary, 0 and 1 included.
        item_id: whether the item tower knows the item's id, or its attributes alone.
        item_fields, user_fields: attribute fields of each side.
        dim: width d of embeddings and vectors.
        history: how the history is encoded; None = the user tower has attributes only.
        history_length: newest items looked at.
        blocks, heads, widening: of the attention encoder.
        similarity: "cosine" scales by a learned temperature in training; "dot" adds an item bias, served as one
            more coordinate of the vectors.
        temperature: where the learned temperature starts ("cosine" only).
        dropout: rate.
        recompute: whether training computes the inside of attention blocks twice to save memory.
    """

    item_codes: int
    item_id: bool = True
    item_fields: tuple[Field, ...] = ()
    user_fields: tuple[Field, ...] = ()
    dim: int = 64
    history: Literal["attention", "mean"] | None = "attention"
    history_length: int = 200
    blocks: int = 2
    heads: int = 2
    widening: int = 4
    similarity: Similarity = "dot"
    temperature: float = 0.07
    dropout: float = 0.2
    recompute: bool = False


@dataclass(frozen=True, slots=True)
class Negatives:
    """Columns that the R targets of a batch are told from in a sampled softmax.

    Attributes:
        rows: (M,) catalogue rows.
        sequences: (M,) the batch's sequence that a column is a target of, -1 = drawn from the catalogue; no column
            of its own sequence.
        others: expected number of columns that are targets of other sequences, drawn by their share of the data.
        uniform: number of columns drawn evenly from the catalogue.
    """

    rows: Tensor
    sequences: Tensor
    others: float
    uniform: int


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """B training sequences, right-padded.

    Attributes:
        history: (B, L) catalogue rows, oldest first; 0 where padded.
        targets: (B, L + 1) the row chosen after the first t items, -1 = nothing to learn there.
        user: codes of the user attributes, (B,) or (B, values) by field.
        negatives: None = the whole catalogue.
        samples: R, the number of targets.
    """

    history: Tensor
    targets: Tensor
    user: Mapping[str, Tensor] = field(default_factory=dict)
    negatives: Negatives | None = None
    samples: int = 0

    def to(self, device: str) -> SequenceBatch:
        """The same batch on a device."""
        if device == "cpu":
            return self
        moved = None
        if self.negatives is not None:
            drawn = self.negatives
            moved = replace(drawn, rows=drawn.rows.to(device), sequences=drawn.sequences.to(device))
        user = {name: codes.to(device) for name, codes in self.user.items()}
        return SequenceBatch(self.history.to(device), self.targets.to(device), user, moved, self.samples)


class TwoTower(nn.Module):
    """Both towers, and the encoded catalogue that the item tower runs over.

    Args:
        shape: sizes.
        item_index: (N,) item-id code of every catalogue row.
        items: encoded attributes of every catalogue row by field.
    """

    item_index: Tensor

    def __init__(self, shape: TwoTowerShape, item_index: Tensor, items: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.shape = shape
        dim = shape.dim
        self.register_buffer("item_index", item_index.long(), persistent=False)
        self.item_names = tuple(f.name for f in shape.item_fields)
        for name in self.item_names:
            self.register_buffer(f"item_field_{name}", items[name].long(), persistent=False)
        if not shape.item_id and not shape.item_fields:
            raise ValueError("an item tower needs the item's id or an attribute")
        if shape.history is None and not shape.user_fields:
            raise ValueError("a user tower needs a history or an attribute")
        self.item_table = nn.Embedding(shape.item_codes, dim) if shape.item_id else None
        if self.item_table is not None:
            nn.init.normal_(self.item_table.weight, std=EMBEDDING_STD)
        self.item_fields = FieldEmbeddings(shape.item_fields, dim) if shape.item_fields else None
        self.item_tower = Tower(
            int(shape.item_id) + len(shape.item_fields), dim, main=shape.item_id, dropout=shape.dropout
        )
        self.user_fields = FieldEmbeddings(shape.user_fields, dim) if shape.user_fields else None
        self.history = _history_encoder(shape)
        self.user_tower = Tower(
            int(self.history is not None) + len(shape.user_fields),
            dim,
            main=self.history is not None,
            dropout=shape.dropout,
        )
        self.log_scale = nn.Parameter(torch.tensor(1.0 / shape.temperature).log())
        self.item_bias = nn.Embedding(shape.item_codes, 1)
        nn.init.zeros_(self.item_bias.weight)

    # Items

    def item_states(self, rows: Tensor | None = None) -> Tensor:
        """(M,) catalogue rows, or all N → (M, d) the item tower's output before the similarity's last step."""
        codes = self.item_index if rows is None else self.item_index[rows]
        return self._item_states(codes, {name: self._item_codes(name, rows) for name in self.item_names})

    def item_vectors(self, states: Tensor, rows: Tensor | None = None) -> Tensor:
        """Item states (M, d) → (M, d_out) vectors as the index stores them."""
        if self.shape.similarity == "cosine":
            return F.normalize(states, dim=-1)
        codes = self.item_index if rows is None else self.item_index[rows]
        return torch.cat([states, self.item_bias(codes)], dim=-1)

    @torch.no_grad()
    def catalogue_blocks(self, size: int = _ROWS_AT_ONCE) -> Iterator[Tensor]:
        """The vectors of all items as the index stores them, (size, d_out) at a time, without gradients."""
        for rows in torch.split(torch.arange(len(self.item_index), device=self.item_index.device), size):
            yield self.item_vectors(self.item_states(rows), rows)

    def catalogue_vectors(self) -> Tensor:
        """(N, d_out) vectors of all items as the index stores them, without gradients."""
        return _stacked(self.catalogue_blocks(), len(self.item_index))

    def history_blocks(self) -> Iterator[Tensor]:
        """The rows of `history_table`, some at a time."""
        codes = torch.arange(self.shape.item_codes, device=self.item_index.device)
        return self._history_blocks(codes)

    def history_table(self) -> Tensor:
        """(codes, d): what the history encoder is given for an item code; 0 = padding, 1 = unseen.

        An item that training did not show is the unseen one in a history, whatever its attributes.
        """
        return _stacked(self.history_blocks(), self.shape.item_codes)

    def history_states(self, codes: Tensor) -> Tensor:
        """The rows of `history_table` for item codes (M,), without the rest of it."""
        return _stacked(self._history_blocks(codes), len(codes))

    @torch.no_grad()
    def _history_blocks(self, codes: Tensor) -> Iterator[Tensor]:
        row_of_code = self._row_of_code() if self.item_names else None
        for part in torch.split(codes, _ROWS_AT_ONCE):
            attributes = {} if row_of_code is None else self._codes_of_rows(row_of_code[part])
            states = self._item_states(part, attributes)
            yield states.masked_fill_((part == 0).unsqueeze(1), 0.0)

    def _row_of_code(self) -> Tensor:
        """(codes,) a catalogue row of each item code, -1 for 0 and 1."""
        rows = torch.full((self.shape.item_codes,), -1, dtype=torch.long, device=self.item_index.device)
        rows[self.item_index] = torch.arange(len(self.item_index), device=self.item_index.device)
        rows[:2] = -1
        return rows

    def _codes_of_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """Attribute codes of catalogue rows; row -1 has none."""
        codes = {}
        for name in self.item_names:
            values = self._item_codes(name, rows.clamp(min=0))
            codes[name] = values * (rows >= 0).view((-1,) + (1,) * (values.dim() - 1))
        return codes

    def _item_codes(self, name: str, rows: Tensor | None) -> Tensor:
        codes: Tensor = getattr(self, f"item_field_{name}")
        return codes if rows is None else codes[rows]

    def _item_states(self, codes: Tensor, attributes: Mapping[str, Tensor]) -> Tensor:
        fields = [] if self.item_table is None else [self.item_table(codes).unsqueeze(1)]
        if self.item_fields is not None:
            fields.append(self.item_fields(attributes))
        states: Tensor = self.item_tower(torch.cat(fields, dim=1))
        return states

    # Users

    def user_states(self, history: Tensor, user: Mapping[str, Tensor]) -> Tensor:
        """Item states of right-padded histories (B, L, d) and user codes → (B, L + 1, d), before the last step."""
        places = history.shape[1] + 1
        attributes = self._user_attributes(user)
        if self.history is None:
            alike: Tensor = self.user_tower(attributes)
            return alike[:, None].expand(-1, places, -1)
        states = self.history.states(history)
        return states if attributes is None else self.user_tower.along(states, attributes)

    def newest_user_state(self, vectors: Tensor | None, age: Tensor | None, user: Mapping[str, Tensor]) -> Tensor:
        """As `user_states` after the whole history, left-padded with ages: the way it is served. → (B, d)."""
        encoded = []
        if self.history is not None and vectors is not None and age is not None:
            newest = self.shape.history_length
            encoded.append(self.history.last(vectors[:, -newest:], age[:, -newest:]).unsqueeze(1))
        attributes = self._user_attributes(user)
        if attributes is not None:
            encoded.append(attributes)
        state: Tensor = self.user_tower(torch.cat(encoded, dim=1))
        return state

    def user_vectors(self, states: Tensor) -> Tensor:
        """User states (…, d) → (…, d_out) vectors whose product with an item vector is the served score."""
        if self.shape.similarity == "cosine":
            return F.normalize(states, dim=-1)
        return torch.cat([states, torch.ones_like(states[..., :1])], dim=-1)

    def _user_attributes(self, user: Mapping[str, Tensor]) -> Tensor | None:
        if self.user_fields is not None:
            fields: Tensor = self.user_fields(user)
            return fields
        return None

    # Training

    def logit_scale(self) -> Tensor:
        """What served scores are multiplied by in the loss, 1/τ; 1 for "dot"."""
        if self.shape.similarity == "dot":
            return torch.ones_like(self.log_scale)
        return self.log_scale.exp().clamp(max=1.0 / _COLDEST)

    def field_weights(self, batch: SequenceBatch) -> dict[str, dict[str, float]]:
        """Mean SENet weight of each field, by tower (a sample of a large catalogue); one field alone has none."""
        report: dict[str, dict[str, float]] = {}
        if self.item_tower.senet is not None and self.item_fields is not None:
            rows = _spread(len(self.item_index), self.item_index.device)
            parts = [] if self.item_table is None else [self.item_table(self.item_index[rows]).unsqueeze(1)]
            codes = {name: self._item_codes(name, rows) for name in self.item_names}
            weights = self.item_tower.senet.weights(torch.cat([*parts, self.item_fields(codes)], dim=1))
            report["item"] = _named((["item_id"] if parts else []) + list(self.item_names), weights)
        attributes = self._user_attributes(batch.user)
        if self.user_tower.senet is not None and attributes is not None:
            parts = [attributes[:, None].expand(-1, batch.targets.shape[1], -1, -1)]
            if self.history is not None:
                rows, place = torch.unique(batch.history, return_inverse=True)
                parts.insert(0, self.history.states(self.item_states(rows)[place]).unsqueeze(2))
            weights = self.user_tower.senet.weights(torch.cat(parts, dim=2))[batch.targets >= 0]
            names = (["history"] if self.history is not None else []) + [f.name for f in self.shape.user_fields]
            report["user"] = _named(names, weights)
        return report


def _stacked(blocks: Iterable[Tensor], count: int) -> Tensor:
    """Blocks of rows as one tensor of `count` rows, without ever holding both."""
    whole: Tensor | None = None
    start = 0
    for block in blocks:
        whole = block.new_empty((count, *block.shape[1:])) if whole is None else whole
        whole[start : start + len(block)] = block
        start += len(block)
    if whole is None:
        raise ValueError("there are no rows to stack")
    return whole


def _spread(count: int, device: torch.device) -> Tensor:
    """Up to 65,536 of `count` rows, evenly spread."""
    return torch.arange(0, count, max(1, -(-count // _ROWS_AT_ONCE)), device=device)


def _named(names: Sequence[str], weights: Tensor) -> dict[str, float]:
    """Mean of weights (…, F) over all but the fields, by field name."""
    means = weights.detach().flatten(0, -2).mean(dim=0).tolist()
    return dict(zip(names, means, strict=True))


def _history_encoder(shape: TwoTowerShape) -> CausalAttention | MeanPooling | None:
    if shape.history is None:
        return None
    if shape.history == "mean":
        return MeanPooling(shape.dim)
    return CausalAttention(
        shape.dim,
        shape.history_length,
        shape.blocks,
        shape.heads,
        shape.dropout,
        shape.widening,
        recompute=shape.recompute,
    )

"""The item side of a retriever: one tower for the catalogue, the targets and the histories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.feature_set import Field
from recsys.models.layers.fields import EMBEDDING_STD, FieldEmbeddings
from recsys.models.layers.tower import Tower

Similarity: TypeAlias = Literal["cosine", "dot"]

UNSEEN: Final = 1
"""The item code of whatever training did not show."""

_ROWS_AT_ONCE: Final = 65_536


@dataclass(frozen=True)
class ItemShape:
    """Sizes and choices of the item side.

    Attributes:
        item_codes: size of the item-id vocabulary, 0 and 1 included.
        item_id: whether the item tower knows the item's id, or its attributes alone.
        item_fields: attribute fields.
        dim: width d of embeddings and vectors.
        similarity: "cosine" scales by a learned temperature in training; "dot" adds an item bias, served as one
            more coordinate of the vectors.
        dropout: rate inside towers and encoders.
        id_dropout: share of the items whose id a training step does not look at: they are the unseen item with their
            attributes, which is what an item that comes later will be (DropoutNet, Volkovs et al., NIPS 2017).
        dates: of the attribute fields, those that say since when an item could be chosen. They are hidden with the id:
            in any log the newest items are chosen least, for want of time, and what comes later is newer than all.
    """

    item_codes: int
    item_id: bool = True
    item_fields: tuple[Field, ...] = ()
    dim: int = 64
    similarity: Similarity = "dot"
    dropout: float = 0.2
    id_dropout: float = 0.0
    dates: tuple[str, ...] = ()


class ItemTower(nn.Module):
    """SENet over an item's id and attributes, and the encoded catalogue that it runs over.

    Args:
        shape: sizes.
        index: (N,) item-id code of every catalogue row.
        attributes: encoded attributes of every catalogue row by field.

    Raises:
        ValueError: when there is neither an id nor an attribute to see.
    """

    index: Tensor

    def __init__(self, shape: ItemShape, index: Tensor, attributes: Mapping[str, Tensor]) -> None:
        super().__init__()
        if not shape.item_id and not shape.item_fields:
            raise ValueError("an item tower needs the item's id or an attribute")
        self.shape = shape
        self.register_buffer("index", index.long(), persistent=False)
        self.names = tuple(field.name for field in shape.item_fields)
        for name in self.names:
            self.register_buffer(f"field_{name}", attributes[name].long(), persistent=False)
        self.table = nn.Embedding(shape.item_codes, shape.dim) if shape.item_id else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=EMBEDDING_STD)
        self.fields = FieldEmbeddings(shape.item_fields, shape.dim) if shape.item_fields else None
        self.tower = Tower(
            int(shape.item_id) + len(shape.item_fields), shape.dim, main=shape.item_id, dropout=shape.dropout
        )
        self.bias = nn.Embedding(shape.item_codes, 1)
        nn.init.zeros_(self.bias.weight)

    def __len__(self) -> int:
        """N, the number of catalogue rows."""
        return len(self.index)

    def forward(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States and vectors of catalogue rows (M,), or of all N.

        Returns:
            (M, d) what a history is made of, and (M, d_out) what the index stores; d_out = d + 1 for "dot".
        """
        codes = self._shown(self.index if rows is None else self.index[rows])
        states = self._states(codes, {name: self._codes(name, rows, codes) for name in self.names})
        return states, self._vectors(states, codes)

    @torch.no_grad()
    def catalogue_blocks(self, size: int = _ROWS_AT_ONCE) -> Iterator[Tensor]:
        """The vectors of all items as the index stores them, (size, d_out) at a time, without gradients."""
        for rows in torch.split(torch.arange(len(self.index), device=self.index.device), size):
            yield self(rows)[1]

    def catalogue_vectors(self) -> Tensor:
        """(N, d_out) vectors of all items as the index stores them, without gradients."""
        return stacked(self.catalogue_blocks(), len(self.index))

    def history_blocks(self) -> Iterator[Tensor]:
        """The rows of `history_table`, some at a time."""
        return self._history_blocks(torch.arange(self.shape.item_codes, device=self.index.device))

    def history_table(self) -> Tensor:
        """(codes, d): what a history encoder is given for an item code; 0 = padding, 1 = unseen.

        An item that training did not show is the unseen one in a history, whatever its attributes.
        """
        return stacked(self.history_blocks(), self.shape.item_codes)

    def history_states(self, codes: Tensor) -> Tensor:
        """The rows of `history_table` for item codes (M,), without the rest of it."""
        return stacked(self._history_blocks(codes), len(codes))

    def field_weights(self) -> dict[str, float]:
        """Mean SENet weight of each field over a sample of the catalogue; one field alone has none."""
        if self.tower.senet is None or self.fields is None:
            return {}
        rows = _spread(len(self.index), self.index.device)
        parts = [] if self.table is None else [self.table(self.index[rows]).unsqueeze(1)]
        codes = {name: self._codes(name, rows, self.index[rows]) for name in self.names}
        weights = self.tower.senet.weights(torch.cat([*parts, self.fields(codes)], dim=1))
        means = weights.detach().mean(dim=0).tolist()
        return dict(zip((["item_id"] if parts else []) + list(self.names), means, strict=True))

    @torch.no_grad()
    def _history_blocks(self, codes: Tensor) -> Iterator[Tensor]:
        row_of_code = self._row_of_code() if self.names else None
        for part in torch.split(codes, _ROWS_AT_ONCE):
            attributes = {} if row_of_code is None else self._codes_of_rows(row_of_code[part])
            states = self._states(part, attributes)
            yield states.masked_fill_((part == 0).unsqueeze(1), 0.0)

    def _row_of_code(self) -> Tensor:
        """(codes,) a catalogue row of each item code, -1 for 0 and 1."""
        rows = torch.full((self.shape.item_codes,), -1, dtype=torch.long, device=self.index.device)
        rows[self.index] = torch.arange(len(self.index), device=self.index.device)
        rows[:2] = -1
        return rows

    def _codes_of_rows(self, rows: Tensor) -> dict[str, Tensor]:
        """Attribute codes of catalogue rows; row -1 has none."""
        codes = {}
        for name in self.names:
            values: Tensor = getattr(self, f"field_{name}")[rows.clamp(min=0)]
            codes[name] = values * (rows >= 0).view((-1,) + (1,) * (values.dim() - 1))
        return codes

    def _codes(self, name: str, rows: Tensor | None, items: Tensor) -> Tensor:
        """Codes of a field for catalogue rows (M,), all when None, that are shown as item codes (M,)."""
        codes: Tensor = getattr(self, f"field_{name}")
        codes = codes if rows is None else codes[rows]
        return codes.masked_fill(items == UNSEEN, 0) if name in self.shape.dates else codes

    def _shown(self, codes: Tensor) -> Tensor:
        """The codes as a training step sees them: some ids are hidden."""
        if not self.training or self.shape.id_dropout == 0.0:
            return codes
        hidden = torch.rand(len(codes), device=codes.device) < self.shape.id_dropout
        return codes.masked_fill(hidden, UNSEEN)

    def _states(self, codes: Tensor, attributes: Mapping[str, Tensor]) -> Tensor:
        fields = [] if self.table is None else [self.table(codes).unsqueeze(1)]
        if self.fields is not None:
            fields.append(self.fields(attributes))
        states: Tensor = self.tower(torch.cat(fields, dim=1))
        return states

    def _vectors(self, states: Tensor, codes: Tensor) -> Tensor:
        if self.shape.similarity == "cosine":
            return F.normalize(states, dim=-1)
        return torch.cat([states, self.bias(codes)], dim=-1)


def stacked(blocks: Iterable[Tensor], count: int) -> Tensor:
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

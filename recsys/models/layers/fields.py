"""Categorical fields to vectors: one table a field, lists averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.feature_set import Field

EMBEDDING_STD: Final = 0.02
"""Small enough that what a transformer adds is heard beside the embeddings from the first step on."""


class FieldEmbeddings(nn.Module):
    """One embedding table a field; code 0 = missing or padding, 1 = unseen, values from 2.

    Codes 0 and 1 start at zero, so that what training never showed says nothing.

    Args:
        fields: F fields of one side, in the order of the output.
        dim: width d.
    """

    def __init__(self, fields: Sequence[Field], dim: int) -> None:
        super().__init__()
        self.names = tuple(field.name for field in fields)
        self.lists = frozenset(field.name for field in fields if field.kind == "list")
        self.tables = nn.ModuleList(_table(field.cardinality, dim) for field in fields)

    def forward(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Codes (n,), or (n, values) for a list, by field name → (n, F, d)."""
        vectors = []
        for name, table in zip(self.names, self.tables, strict=True):
            assert isinstance(table, nn.Embedding)
            vectors.append(
                _mean_of_present(table, codes[name]) if name in self.lists else table(codes[name]).flatten(1)
            )
        return torch.stack(vectors, dim=1)


def _table(size: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(size, dim)
    nn.init.normal_(table.weight, std=EMBEDDING_STD)
    with torch.no_grad():
        table.weight[:2] = 0.0
    return table


def _mean_of_present(table: nn.Embedding, codes: Tensor) -> Tensor:
    """Codes (n, values) → (n, d), the mean over codes other than 0; zeros where there is none.

    The exporter knows no bag without its padding, so an exported graph says the same at length.
    """
    if not torch.onnx.is_in_onnx_export():
        return F.embedding_bag(codes, table.weight, mode="mean", padding_idx=0, sparse=table.sparse)
    vectors: Tensor = table(codes)
    present = (codes > 0).to(vectors.dtype).unsqueeze(-1)
    return (vectors * present).sum(dim=1) / present.sum(dim=1).clamp(min=1.0)

"""Embeddings of fields: lists are means over what is there, with the gradient of that mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.features.feature_set import Field
from recsys.models.layers.fields import FieldEmbeddings

GENRES = Field("genres", "item", "list", 20, 4)
YEAR = Field("year", "item", "numeric", 6)


def random_lists() -> Tensor:
    """(300, 4) codes, some of them 0, some lists empty."""
    torch.manual_seed(0)
    codes = torch.randint(0, 20, (300, 4))
    codes[codes < 6] = 0
    codes[:10] = 0
    return codes


def plain_mean(weight: Tensor, codes: Tensor) -> Tensor:
    present = (codes > 0).to(weight.dtype).unsqueeze(-1)
    return (weight[codes] * present).sum(dim=1) / present.sum(dim=1).clamp(min=1.0)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_list_is_the_mean_of_what_is_there_with_its_gradient(sparse: bool) -> None:
    """Row-wise optimisers ask tables for sparse gradients."""
    codes, fields = random_lists(), FieldEmbeddings([GENRES], 8).double()
    fields.tables[0].sparse = sparse
    weight = fields.tables[0].weight
    slope = torch.randn(300, 8, dtype=torch.float64)
    found = fields({"genres": codes})[:, 0]
    expected = plain_mean(weight, codes)
    assert torch.allclose(found, expected, atol=1e-12)
    (ours,) = torch.autograd.grad((found * slope).sum(), weight)
    (theirs,) = torch.autograd.grad((expected * slope).sum(), weight)
    assert ours.is_sparse == sparse
    assert torch.allclose(ours.to_dense() if sparse else ours, theirs, atol=1e-12)


def test_a_list_with_nothing_in_it_is_zero() -> None:
    fields = FieldEmbeddings([GENRES], 8)
    assert torch.equal(fields({"genres": torch.zeros(2, 4, dtype=torch.long)}), torch.zeros(2, 1, 8))


def test_fields_come_in_their_order_from_codes_of_either_width() -> None:
    fields = FieldEmbeddings([YEAR, GENRES], 8)
    codes = {"genres": torch.tensor([[2, 3, 0, 0]]), "year": torch.tensor([4])}
    found = fields(codes)
    assert found.shape == (1, 2, 8)
    assert torch.equal(found[0, 0], fields.tables[0].weight[4])
    narrow = {name: values.int() for name, values in codes.items()}
    assert torch.equal(found, fields(narrow))

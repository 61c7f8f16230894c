"""The optimiser: AdamW for the dense part, row-wise Adagrad for tables, one norm over both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.train.optimisers import Optimiser, RowWiseAdagrad, TableOptimiser, possible_tables

ROWS, DIM = 6, 3


class Lookup(nn.Module):
    """A table and a matrix."""

    def __init__(self, rows: int = ROWS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(rows, DIM)
        self.out = nn.Linear(DIM, 1)

    def forward(self, codes: Tensor) -> Tensor:
        scores: Tensor = self.out(self.table(codes))
        return scores


def optimiser(model: nn.Module, tables: TableOptimiser = "rowwise", table_lr: float = 0.5) -> Optimiser:
    return Optimiser(model, lr=0.01, weight_decay=0.1, tables=tables, table_lr=table_lr)


def step(model: Lookup, by: Optimiser, *lookups: list[int], longest: float = 1e9) -> None:
    by.zero_grad()
    for codes in lookups:
        model(torch.tensor(codes)).square().sum().backward()
    by.step(1.0, longest)


def test_row_wise_adagrad_is_its_formula() -> None:
    table = nn.Parameter(torch.ones(2, 2))
    adagrad = RowWiseAdagrad([table], lr=0.5)
    table.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    adagrad.step()
    # mean(9, 16) = 12.5; the first step is lr · g / √12.5
    first = 1.0 - 0.5 * torch.tensor([3.0, 4.0]) / 12.5**0.5
    assert torch.allclose(table[0], first)
    assert torch.equal(table[1], torch.ones(2))
    table.grad = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    adagrad.step()
    # 12.5 + mean(1, 0) = 13; the second row's state is mean(0, 4) = 2
    assert torch.allclose(table[0], first - 0.5 * torch.tensor([1.0, 0.0]) / 13.0**0.5)
    assert torch.allclose(table[1], 1.0 - 0.5 * torch.tensor([0.0, 2.0]) / 2.0**0.5)


def test_sparse_and_dense_gradients_move_a_table_alike() -> None:
    found = []
    for sparse in (True, False):
        model = Lookup()
        by = optimiser(model)
        model.table.sparse = sparse
        for codes in ([1, 4, 4], [1, 2, 0], [4, 1, 1]):
            step(model, by, codes)
        found.append(model.table.weight.detach().clone())
    assert torch.allclose(*found, atol=1e-7)


def test_rows_that_a_batch_does_not_hold_keep_their_weights_and_their_state() -> None:
    model = Lookup()
    by = optimiser(model)
    before = model.table.weight.detach().clone()
    step(model, by, [1, 4, 4])
    moved = (model.table.weight != before).any(dim=1)
    assert moved.tolist() == [False, True, False, False, True, False]
    assert (by.tensors()["table.weight/sum"] > 0).tolist() == moved.tolist()


def test_a_row_wise_table_costs_one_number_a_row_beside_its_weights() -> None:
    model = Lookup(1000)
    by = optimiser(model)
    step(model, by, [3, 5])
    of_table = {name: tensor for name, tensor in by.tensors().items() if name.startswith("table.")}
    assert sum(tensor.numel() for tensor in of_table.values()) == 1000
    assert model.table.weight.grad is not None
    assert model.table.weight.grad.values().numel() == 2 * DIM


@pytest.mark.parametrize(("tables", "rows", "by_row"), [("auto", 49_999, 0), ("auto", 50_000, 1), ("dense", 10**5, 0)])
def test_large_tables_are_taken_row_by_row(tables: TableOptimiser, rows: int, by_row: int) -> None:
    model = Lookup(rows)
    assert len(optimiser(model, tables).row_wise) == by_row
    assert model.table.sparse == bool(by_row)


@pytest.mark.parametrize("wanted", ["auto", "dense"])
def test_tables_are_dense_where_workers_cannot_add_sparse_gradients(wanted: TableOptimiser) -> None:
    assert possible_tables(wanted, sparse=False) == "dense"
    assert possible_tables(wanted, sparse=True) == wanted


def test_row_wise_tables_are_refused_where_workers_cannot_add_sparse_gradients() -> None:
    assert possible_tables("rowwise", sparse=True) == "rowwise"
    with pytest.raises(ConfigError, match=r"table_optimiser = rowwise: .*use one worker, or table_optimiser = dense"):
        possible_tables("rowwise", sparse=False)


def test_what_takes_no_gradient_is_left_alone_and_not_stored() -> None:
    model = Lookup()
    model.table.requires_grad_(False)
    by = optimiser(model)
    assert set(by.parameters) == {"out.weight", "out.bias"}
    assert not model.table.sparse
    before = model.table.weight.clone()
    step(model, by, [0, 1])
    assert torch.equal(model.table.weight, before)
    assert not any(name.startswith("table") for name in by.tensors())


def test_the_norm_that_is_clipped_is_that_of_all_gradients_together() -> None:
    dense, sparse = Lookup(), Lookup()
    codes = torch.tensor([1, 4, 4, 2])
    dense(codes).square().sum().backward()
    norm = float(nn.utils.get_total_norm([p.grad for p in dense.parameters() if p.grad is not None]))
    by = optimiser(sparse)
    step(sparse, by, codes.tolist(), longest=norm / 10)
    assert sparse.out.weight.grad is not None
    assert dense.out.weight.grad is not None
    assert torch.allclose(sparse.out.weight.grad, dense.out.weight.grad / 10, rtol=1e-5)
    assert sparse.table.weight.grad is not None
    assert torch.allclose(sparse.table.weight.grad.to_dense(), dense.table.weight.grad / 10, rtol=1e-5)  # type: ignore[operator]


def test_without_row_wise_tables_it_is_torchs_own_clip_and_adamw() -> None:
    ours, theirs = Lookup(), Lookup()
    by = optimiser(ours, "dense")
    groups = [{"params": [theirs.out.weight], "weight_decay": 0.1}, {"params": [theirs.table.weight, theirs.out.bias]}]
    adamw = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.0, fused=True)
    for codes in ([1, 4, 4], [2, 0, 5]):
        step(ours, by, codes, longest=0.1)
        adamw.zero_grad()
        theirs(torch.tensor(codes)).square().sum().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))

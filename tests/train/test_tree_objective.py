"""Training a tree: what a target is told from at each level, and a sample's likeness to the whole level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.index.item_tree import ItemTree
from recsys.models.prefix_scores import Prefixes
from recsys.models.sequence_batch import SequenceBatch
from recsys.models.tdm import Tdm
from recsys.models.tree_nodes import TreeNodes
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.train.tree_levels import first_had, sampled_level, whole_level
from recsys.train.tree_objective import TreeObjective

ITEMS, LENGTH = 60, 8


def batch(sequences: int = 5) -> SequenceBatch:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, ITEMS, (sequences, LENGTH + 1), generator=generator)
    targets = rows.clone()
    targets[1, 4:] = -1
    targets[2] = -1
    return SequenceBatch(rows[:, :-1], targets, samples=int((targets >= 0).sum()))


def item_tree(slots: int = ITEMS) -> ItemTree:
    rng = np.random.default_rng(0)
    rows = np.full(slots, -1, np.int32)
    rows[rng.permutation(slots)[:ITEMS]] = rng.permutation(ITEMS)
    return ItemTree(rows, ITEMS)


def model(slots: int = ITEMS, **changes: object) -> Tdm:
    torch.manual_seed(0)
    shape = TwoTowerShape(
        **{"item_codes": ITEMS + 2, "dim": 8, "history_length": LENGTH, "history": "recency", "dropout": 0.0, **changes}  # type: ignore[arg-type]
    )
    found = Tdm(TwoTower(shape, torch.arange(2, ITEMS + 2), {}), item_tree(slots), attended=5)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return found


def by_hand(
    tdm: Tdm, given: SequenceBatch, *, exclude: bool = False, leaf_weight: float = 1.0, shown: Tensor | None = None
) -> Tensor:
    """The loss over whole levels, prefix by prefix, through the serving face."""
    tree = tdm.tree
    items = tdm.batch_items(torch.arange(ITEMS))
    loss, weights = torch.zeros(()), 0.0
    for level in range(1, tree.depth + 1):
        nodes = tree.at_level(level)
        of_nodes = tdm.vectors(nodes, items)
        weight = leaf_weight if level == tree.depth else 1.0
        weights += weight
        for b, length in (given.targets >= 0).nonzero().tolist():
            had = given.history[b, :length]
            user = tdm.users.user_vectors(tdm.users.user_states(items.states[had][None], {}))[0, -1]
            above = torch.searchsorted(nodes, tree.ancestors(tree.of_rows(had), level))
            age = torch.arange(length, 0, -1)
            scores = tdm.newest_scores(user[None], tdm.bare(of_nodes[above])[None], age[None], of_nodes)[0]
            target = tree.ancestors(tree.of_rows(given.targets[b, length]), level)
            if exclude and level == tree.depth:
                mine = torch.isin(nodes, tree.of_rows(had)) & (nodes != target)
                scores = scores.masked_fill(mine, -torch.inf)
            if shown is not None:
                hidden = tree.rows[tree.rows >= 0]
                hidden = tree.of_rows(hidden[~torch.isin(hidden, shown)])
                scores = scores.masked_fill(torch.isin(nodes, hidden), -torch.inf)
            place = torch.searchsorted(nodes, target)
            loss = loss + weight * F.cross_entropy(scores, place) / given.samples
    return loss / weights


@pytest.mark.parametrize("slots", [60, 70])
@pytest.mark.parametrize("exclude", [False, True])
def test_the_loss_over_whole_levels_is_that_of_a_plain_loop(slots: int, exclude: bool) -> None:
    tdm, given = model(slots), batch()
    objective = TreeObjective(tdm, in_batch=40, uniform=40, leaf_weight=2.0, exclude_history=exclude)
    expected = by_hand(tdm, given, exclude=exclude, leaf_weight=2.0)
    loss = objective(given)
    assert torch.allclose(loss, expected, rtol=1e-5)
    parameters = dict(tdm.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, ours, theirs in zip(
        parameters, found, torch.autograd.grad(expected, list(parameters.values()), allow_unused=True), strict=True
    ):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert torch.allclose(ours, theirs, atol=1e-5), name


@pytest.mark.parametrize("slots", [60, 70])
def test_targets_are_told_from_leaves_that_training_shows(slots: int) -> None:
    """Padding stands for row 0, which may be none of them."""
    tdm, given = model(slots), batch()
    rows = given.history.flatten().unique()
    moved = {int(row): place + 1 for place, row in enumerate(rows)}
    history, targets = given.history.clone(), given.targets.clone()
    history.apply_(lambda row: moved[row])
    targets.apply_(lambda row: moved.get(row, -1))
    given = SequenceBatch(history, targets, samples=int((targets >= 0).sum()))
    shown = torch.arange(1, len(rows) + 1)
    assert 20 < len(shown) < ITEMS - 5
    objective = TreeObjective(tdm, in_batch=40, uniform=40, shown=shown)
    loss = objective(given)
    assert torch.allclose(loss, by_hand(tdm, given, shown=shown), rtol=1e-5)
    assert not torch.allclose(loss, by_hand(tdm, given), rtol=1e-3)
    padded = given.history.clone()
    padded[1, 3:], padded[2] = 0, 0
    assert torch.allclose(objective(replace(given, history=padded)), loss, rtol=1e-5)
    sampled = torch.autograd.grad(TreeObjective(tdm, 10, 10, shown=shown)(given), tdm.users.items.table.weight)[0]  # type: ignore[union-attr]
    assert not sampled[2:][~torch.isin(torch.arange(ITEMS), shown)].any()


def test_a_node_above_a_rows_target_is_its_positive_and_no_other_column() -> None:
    tree, given = TreeNodes(item_tree()), batch()
    asked = given.targets >= 0
    prefixes = Prefixes.of(asked, 5)
    targets, history = tree.of_rows(given.targets[asked]), tree.of_rows(given.history)
    for level in range(1, tree.depth + 1):
        for drawn in (
            whole_level(tree, level, targets, history),
            sampled_level(tree, level, targets, history, uniform=6),
        ):
            for row, b in enumerate(prefixes.sequence.tolist()):
                columns = drawn.nodes[drawn.asked.columns[b]]
                counted = torch.ones(len(columns)) if drawn.log_weight is None else drawn.log_weight.exp()
                above = columns == tree.ancestors(targets[row], level)
                assert above[drawn.positive[row]]
                assert counted[drawn.positive[row]] == 1.0
                assert above.sum() == 1
                assert len(torch.unique(columns)) == len(columns)


def test_a_sampled_level_sums_to_the_whole_one_on_average() -> None:
    torch.manual_seed(0)
    tree, given = TreeNodes(item_tree()), batch()
    targets, history = tree.of_rows(given.targets[given.targets >= 0][:12]), tree.of_rows(given.history)
    worth = torch.rand(2 * ITEMS - 1) ** 4
    found = torch.zeros(())
    draws = 1_500
    for _ in range(draws):
        drawn = sampled_level(tree, tree.depth, targets, history, uniform=6)
        assert drawn.log_weight is not None
        found += (drawn.log_weight.exp() * worth[drawn.nodes[drawn.asked.columns[0]]]).sum() / draws
    assert torch.allclose(found, worth[tree.at_level(tree.depth)].sum(), rtol=0.02)


def test_the_mean_gradient_of_samples_is_nearly_that_of_the_whole_levels() -> None:
    tdm, given = model(), batch()
    parameters = [tdm.inner.weight, tdm.attention.value, tdm.users.items.table.weight]  # type: ignore[union-attr]
    whole = torch.autograd.grad(TreeObjective(tdm, in_batch=40, uniform=40)(given), parameters)
    sample = TreeObjective(tdm, in_batch=10, uniform=20)
    draws = [torch.autograd.grad(sample(given), parameters) for _ in range(100)]
    for full, *sampled in zip(whole, *draws, strict=True):
        mean = torch.stack(sampled).mean(dim=0)
        assert F.cosine_similarity(mean.flatten(), full.flatten(), dim=0) > 0.99
        assert 0.95 < mean.norm() / full.norm() < 1.05


def test_where_a_column_was_first_had() -> None:
    tree = TreeNodes(ItemTree(np.arange(4, dtype=np.int32), 4))
    history = torch.tensor([[5, 3, 5], [4, 4, -1]])
    drawn = whole_level(tree, 2, torch.empty(0, dtype=torch.long), history)
    assert [first.tolist() for first in first_had(drawn.nodes, drawn.asked)] == [[1, 3, 0, 3], [3, 0, 3, 3]]


def test_targets_and_behaviours_that_are_not_in_the_tree_are_left_out() -> None:
    tdm, given = model(), batch()
    gone = int(given.targets[0, 2])
    tdm.set_tree(item_tree().without(np.array([gone])))
    left = given.targets.masked_fill(given.targets == gone, -1)
    with_it = TreeObjective(tdm)(given)
    without = TreeObjective(tdm)(SequenceBatch(given.history, left, samples=int((left >= 0).sum())))
    assert torch.equal(with_it, without)
    assert torch.isfinite(with_it)


@pytest.mark.parametrize("columns", [40, 3])
@pytest.mark.parametrize("length", [0, LENGTH])
def test_a_batch_without_targets_or_without_behaviours_has_a_loss_too(length: int, columns: int) -> None:
    """A worker's share of a small batch; sequences of a single item."""
    tdm = model(history="attention+recency")
    history, first = torch.zeros(2, length, dtype=torch.long), torch.tensor([[3], [5]])
    nothing = torch.full((2, length + 1), -1)
    objective = TreeObjective(tdm, columns, columns, exclude_history=True)
    assert objective(SequenceBatch(history, nothing)) == 0.0
    only_first = torch.cat([first, nothing[:, 1:]], dim=1)
    loss = objective(SequenceBatch(history, only_first, samples=2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in tdm.parameters() if p.grad is not None)

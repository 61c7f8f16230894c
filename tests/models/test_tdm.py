"""TDM: training scores all prefixes as serving scores each; leaves are items, inner nodes means of what is below."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recsys.index.item_tree import ItemTree
from recsys.models.prefix_scores import LevelNodes, Prefixes, level_scores
from recsys.models.tdm import Tdm
from recsys.models.tree_nodes import TreeNodes
from recsys.models.two_tower import TwoTower, TwoTowerShape

ITEMS, DIM, LENGTH = 11, 8, 9


def tdm(tree: ItemTree, **changes: object) -> Tdm:
    torch.manual_seed(0)
    shape = TwoTowerShape(**{"item_codes": ITEMS + 2, "dim": DIM, "history_length": LENGTH, "heads": 2, **changes})  # type: ignore[arg-type]
    model = Tdm(TwoTower(shape, torch.arange(2, ITEMS + 2), {}), tree, attended=4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def with_vacancies(slots: int, seed: int = 1) -> ItemTree:
    rng = np.random.default_rng(seed)
    rows = np.full(slots, -1, np.int32)
    rows[rng.permutation(slots)[:ITEMS]] = rng.permutation(ITEMS)
    return ItemTree(rows, ITEMS)


@pytest.mark.parametrize("slots", [11, 13, 16, 23])
def test_levels_are_the_nodes_above_an_item_and_ancestors_are_parents_of_parents(slots: int) -> None:
    tree = TreeNodes(with_vacancies(slots))
    leaves = tree.of_rows(torch.arange(ITEMS))
    assert tree.rows[leaves - tree.inner].tolist() == list(range(ITEMS))
    assert tree.at_level(tree.depth).tolist() == sorted(leaves.tolist())
    assert tree.at_level(0).tolist() == [0]
    for leaf in leaves.tolist():
        chain = [leaf]
        while chain[-1]:
            chain.append((chain[-1] - 1) // 2)
        chain.reverse()
        assert len(chain) - 1 in (tree.depth - 1, tree.depth)
        for level in range(tree.depth + 1):
            assert int(tree.ancestors(torch.tensor(leaf), level)) == chain[min(level, len(chain) - 1)]
    for level in range(tree.depth + 1):
        assert torch.equal(tree.at_level(level), torch.unique(tree.ancestors(leaves, level)))


def test_a_row_that_is_not_in_the_tree_has_no_leaf() -> None:
    tree = TreeNodes(ItemTree(np.array([3, -1, 1], np.int32), 5))
    assert tree.of_rows(torch.arange(5)).tolist() == [-1, 4, -1, 2, -1]
    assert tree.ancestors(torch.tensor([-1, 4]), 1).tolist() == [-1, 1]
    assert tree.siblings(torch.tensor([1, 2]), 1).tolist() == [2, 1]
    assert tree.siblings(torch.tensor([2, 3, 4]), 2).tolist() == [-1, 4, -1]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("slots", [11, 23])
def test_a_users_newest_scores_are_those_of_training_after_its_last_item(slots: int, similarity: str) -> None:
    model = tdm(with_vacancies(slots), similarity=similarity)
    tree, history = model.tree, torch.randint(0, ITEMS, (3, LENGTH))
    served = torch.cat(list(model.node_blocks(5)))
    items = model.batch_items(torch.arange(ITEMS))
    states = model.users.user_states(F.embedding(history, items.states), {})
    users = model.users.user_vectors(states).flatten(0, 1)
    prefixes = Prefixes.of(torch.ones(3, LENGTH + 1, dtype=torch.bool), 4)
    for level in range(1, tree.depth + 1):
        nodes = tree.at_level(level)
        above = tree.ancestors(tree.of_rows(history), level)
        asked = LevelNodes([torch.arange(len(nodes))] * 3, torch.searchsorted(nodes, above))
        factors = model.attention.prefix_factors(LENGTH)
        trained = level_scores(users, model.table(nodes, items), factors, prefixes, asked, model.attention.cap)
        for b, scores in trained:
            for length in range(LENGTH + 1):
                age = torch.arange(LENGTH, 0, -1) - (LENGTH - length)
                one = model.newest_scores(
                    users.view(3, LENGTH + 1, -1)[b, length][None],
                    model.bare(served[above[b]])[None],
                    age.clamp(min=0)[None],
                    served[nodes],
                )
                assert torch.allclose(scores[length], one[0], atol=1e-5)


def test_another_tree_moves_the_items_and_averages_or_keeps_the_inner_nodes() -> None:
    model = tdm(with_vacancies(13))
    before = model.inner.weight.detach().clone()
    model.set_tree(with_vacancies(13, seed=2), keep_inner=True)
    assert torch.equal(model.inner.weight, before)
    model.set_tree(with_vacancies(13, seed=2))
    leaves, vectors = model.tree.of_rows(torch.arange(ITEMS)), model.users.items()[1]
    for node in range(model.tree.inner):
        below = [row for row, leaf in enumerate(leaves.tolist()) if node in _above(leaf)]
        expected = vectors[below].mean(dim=0) if below else torch.zeros(DIM + 1)
        assert torch.allclose(model.inner.weight[node], expected, atol=1e-6)
    assert torch.allclose(torch.cat(list(model.node_blocks()))[leaves], vectors, atol=1e-6)
    with pytest.raises(ValueError, match="13 leaf slots, not 12"):
        model.set_tree(with_vacancies(12))


def _above(leaf: int) -> set[int]:
    found = set()
    while leaf:
        leaf = (leaf - 1) // 2
        found.add(leaf)
    return found

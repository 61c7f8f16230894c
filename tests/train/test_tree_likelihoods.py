"""Likelihoods of items below nodes: the sums, over their prefixes, of the scores that serving would give the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recsys.data.interactions import Interactions
from recsys.index.item_tree import ItemTree
from recsys.index.tree_assignment import relearned
from recsys.models.tdm import Tdm
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train import tree_likelihoods
from recsys.train.tree_likelihoods import PrefixLikelihoods
from recsys.train.view import TrainView

ITEMS, ATTENDED, LENGTH = 20, 3, 6


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    folder: Path = tmp_path_factory.mktemp("planted") / "data"
    return planted_view(folder, Planted(users=30, items=ITEMS, clusters=4, mean_length=8))


def tdm(view: TrainView, similarity: str = "dot") -> Tdm:
    torch.manual_seed(0)
    tree = ItemTree(np.append(np.random.default_rng(0).permutation(ITEMS), [-1, -1]).astype(np.int32), ITEMS)
    config = TwoTowerConfig(dim=8, history="recency", history_length=LENGTH, similarity=similarity)  # type: ignore[arg-type]
    model = Tdm(build_model(config, view), tree, ATTENDED)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_likelihood_is_the_sum_of_scores_on_the_way_over_all_prefixes(view: TrainView, similarity: str) -> None:
    model, sequences = tdm(view, similarity), view.train
    codes = {field.name: view.users[field.name] for field in model.users.shape.user_fields}
    tree, items = model.tree, model.batch_items(torch.arange(ITEMS))
    served = torch.cat(list(model.node_blocks()))
    rows, sizes, above, level = np.array([3, 3, 11], np.int32), np.array([2, 1]), 1, 3
    nodes = np.array([[7, 8, 9, 10], [11, 12, 13, 14]])
    expected = np.zeros((len(rows), nodes.shape[1]))
    for event, user in enumerate(sequences.user_of()):
        place = event - sequences.offsets[user]
        start = max(0, -(-(place - LENGTH) // (LENGTH // 2))) * (LENGTH // 2)
        had = torch.from_numpy(sequences.of(int(user))[:place].astype(np.int64))
        attributes = {name: torch.tensor([int(values[user])]) for name, values in codes.items()}
        states = F.embedding(had[start:], items.states)[None]
        vector = model.users.user_vectors(model.users.user_states(states, attributes))[:, -1]
        for at in range(above + 1, level + 1):
            newest = had[-ATTENDED:]
            behaviours = model.bare(served[tree.ancestors(tree.of_rows(newest), at)])
            age = torch.arange(len(newest), 0, -1)
            for m in np.flatnonzero(rows == sequences.rows[event]):
                way = served[tree.ancestors(torch.from_numpy(nodes[m // 2]), at)]
                scores = model.newest_scores(vector, behaviours[None], age[None], way)[0]
                expected[m] += (model.users.logit_scale() * scores).detach().numpy()
    found = PrefixLikelihoods(model, sequences, codes, prefixes=10_000)(rows, nodes, sizes, above, level)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_which_item_holds_a_leaf_says_nothing_about_another_one_there(view: TrainView) -> None:
    """Leaves are compared by the way to them; one that ends early as if the item itself were there."""
    model, sequences = tdm(view), view.train
    codes = {field.name: view.users[field.name] for field in model.users.shape.user_fields}
    likelihoods = PrefixLikelihoods(model, sequences, codes)
    tree, depth = model.tree.held, model.tree.depth
    last = np.array(tree.level(depth))
    rows = np.array([3, 11], np.int32)
    found = likelihoods(rows, last[None], np.array([2]), depth - 2, depth)
    parents = last.copy()
    parents[last >= (1 << depth) - 1] = (last[last >= (1 << depth) - 1] - 1) // 2
    np.testing.assert_array_equal(found, likelihoods(rows, parents[None], np.array([2]), depth - 2, depth - 1))
    early = found[:, last < (1 << depth) - 1]
    assert early.shape[1] > 1
    assert (early == early[:, :1]).all()
    assert (np.diff(found[:, last >= (1 << depth) - 1][:, ::2]) != 0).any()


def test_a_sample_of_prefixes_stands_for_all(view: TrainView) -> None:
    model, sequences = tdm(view), view.train
    codes = {field.name: view.users[field.name] for field in model.users.shape.user_fields}
    asked = np.arange(ITEMS, dtype=np.int32), np.array([[1, 2]]), np.array([ITEMS]), 0, 1
    whole = PrefixLikelihoods(model, sequences, codes, prefixes=10_000)(*asked)
    some = [PrefixLikelihoods(model, sequences, codes, prefixes=4, seed=seed)(*asked) for seed in range(30)]
    assert np.abs(np.mean(some, axis=0) - whole).mean() < 0.1 * np.abs(whole).mean()


def test_fewer_samples_are_held_than_asked_for_where_there_is_no_room(
    view: TrainView, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sequences = tdm(view), view.train
    codes = {field.name: view.users[field.name] for field in model.users.shape.user_fields}
    a_vector = 4 * model.inner.embedding_dim
    for room, held in ((3 * ITEMS, 3), (4 * ITEMS - 1, 3), (1, 1)):
        monkeypatch.setattr(tree_likelihoods, "_USERS_HELD", room * a_vector)
        counts = np.bincount(sequences.rows, minlength=ITEMS)
        assert counts.min() > 3
        found = PrefixLikelihoods(model, sequences, codes, prefixes=32)
        assert len(found._users) == held * ITEMS


def test_an_item_that_nobody_chose_is_at_home_anywhere(view: TrainView) -> None:
    model, sequences = tdm(view), view.train
    codes = {field.name: view.users[field.name] for field in model.users.shape.user_fields}
    others: Interactions = sequences.where(sequences.rows != 5)
    kept = np.isin(sequences.user_ids, others.user_ids)
    codes = {name: values[kept] for name, values in codes.items()}
    found = PrefixLikelihoods(model, others, codes)(np.array([5], np.int32), np.array([[3, 4]]), np.array([1]), 1, 2)
    assert not found.any()


def test_relearning_by_them_places_every_item_once(view: TrainView) -> None:
    model = tdm(view)
    codes = {field.name: view.users[field.name] for field in model.users.shape.user_fields}
    tree = ItemTree(model.tree.rows.numpy().astype(np.int32), ITEMS)
    found = relearned(tree, PrefixLikelihoods(model, view.train, codes), levels_at_once=2)
    assert sorted(found.rows[found.rows >= 0].tolist()) == list(range(ITEMS))
    assert not np.array_equal(found.rows, tree.rows)

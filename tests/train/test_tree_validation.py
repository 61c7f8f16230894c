"""Validation of a tree retriever: the ranks of brute force over its leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.index.item_tree import ItemTree
from recsys.models.tdm import Tdm
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.export import user_vectors
from recsys.train.tree_validation import TreeValidator
from recsys.train.validation import RankingValidator
from recsys.train.view import TrainView

ITEMS, ATTENDED = 40, 3


@pytest.fixture(scope="module", params=["last", "time:0.2"])
def view(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    folder: Path = tmp_path_factory.mktemp("planted") / "data"
    return planted_view(folder, Planted(users=90, items=ITEMS, clusters=4, mean_length=8), request.param)


def tdm(view: TrainView) -> Tdm:
    torch.manual_seed(0)
    tree = ItemTree(np.random.default_rng(0).permutation(ITEMS).astype(np.int32), ITEMS)
    model = Tdm(build_model(TwoTowerConfig(dim=8), view), tree.without(np.array([7])), ATTENDED)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_ranks_are_those_of_brute_force_over_the_leaves(view: TrainView) -> None:
    model, targets = tdm(view), view.validation
    assert targets is not None
    users = targets.users(0, len(targets), view.user_frame)
    vectors = torch.from_numpy(user_vectors(model.users, view.encoder.encode_users(users)))
    leaves = model.users.items.catalogue_vectors()
    expected = []
    for b, target in enumerate(targets.target):
        newest = users.history[b][-ATTENDED:].astype(np.int64)
        age = torch.arange(len(newest), 0, -1).masked_fill(torch.from_numpy(newest == 7), 0)
        behaviours = model.bare(leaves[newest])
        scores = model.newest_scores(vectors[b][None], behaviours[None], age[None], leaves)[0].detach().numpy()
        eligible = np.ones(ITEMS, bool) if targets.eligible is None else targets.eligible.allowed.copy()
        eligible[users.excluded[b]] = False
        others = scores[eligible & (np.arange(ITEMS) != target)]
        expected.append(1 + int((others > scores[target] - 1e-6).sum()) if eligible[target] else ITEMS + 1)
    validator = TreeValidator(RankingValidator(targets, view.encoder, view.user_frame))
    ranks = validator.ranks(model)
    assert ranks.tolist() == expected
    assert validator(model)["hr@10"] == np.mean(ranks <= 10)


def test_users_without_any_history_are_ranked_by_their_vectors(view: TrainView) -> None:
    model = tdm(view)
    assert view.validation is not None
    newcomers = replace(view.validation, history_end=np.zeros_like(view.validation.history_end))
    targets = RankingValidator(newcomers, view.encoder, view.user_frame)
    assert TreeValidator(targets).ranks(model).tolist() == targets.ranks(model.users).tolist()


def test_a_sample_is_ranked_as_the_same_targets_among_all(view: TrainView) -> None:
    model = tdm(view)
    assert view.validation is not None
    few = TreeValidator(RankingValidator(view.validation, view.encoder, view.user_frame, most=10)).ranks(model)
    every = TreeValidator(RankingValidator(view.validation, view.encoder, view.user_frame)).ranks(model)
    assert len(few) == 10
    assert set(few) <= set(every)

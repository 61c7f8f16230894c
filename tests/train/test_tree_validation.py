"""Validation of a tree retriever: the targets' places in what its beam finds."""

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
from recsys.train.ranks import Ranks
from recsys.train.tree_validation import TreeValidator
from recsys.train.validation import RankingValidator
from recsys.train.view import TrainView

ITEMS, ATTENDED, K = 40, 3, 10
OUTSIDE = 7
"""A row that is not in the tree."""


@pytest.fixture(scope="module", params=["last", "time:0.2"])
def view(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    folder: Path = tmp_path_factory.mktemp("planted") / "data"
    return planted_view(folder, Planted(users=90, items=ITEMS, clusters=4, mean_length=8), request.param)


def tdm(view: TrainView) -> Tdm:
    torch.manual_seed(0)
    tree = ItemTree(np.random.default_rng(0).permutation(ITEMS).astype(np.int32), ITEMS)
    model = Tdm(build_model(TwoTowerConfig(dim=8), view), tree.without(np.array([OUTSIDE])), ATTENDED)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_with_a_beam_as_wide_as_the_tree_ranks_are_those_of_brute_force(view: TrainView) -> None:
    model, targets = tdm(view), view.validation
    assert targets is not None
    users = targets.users(0, len(targets), view.user_frame)
    vectors = torch.from_numpy(user_vectors(model.users, view.encoder.encode_users(users)))
    leaves = model.users.items.catalogue_vectors()
    expected = []
    for b, target in enumerate(targets.target):
        newest = users.history[b][-ATTENDED:].astype(np.int64)
        age = torch.arange(len(newest), 0, -1).masked_fill(torch.from_numpy(newest == OUTSIDE), 0)
        behaviours = model.bare(leaves[newest])
        scores = model.newest_scores(vectors[b][None], behaviours[None], age[None], leaves)[0].detach().numpy()
        eligible = np.ones(ITEMS, bool) if targets.eligible is None else targets.eligible.allowed.copy()
        eligible[users.excluded[b]] = False
        eligible[OUTSIDE] = False
        better = int((scores[eligible & (np.arange(ITEMS) != target)] > scores[target]).sum())
        expected.append(1 + better if eligible[target] and better < K else K + 1)
    validator = TreeValidator(targets, view.encoder, view.user_frame, ITEMS)
    ranks = validator.ranks(model, K)
    assert ranks.tolist() == expected
    assert 0 < np.mean(ranks <= K) < 1
    assert validator(model, K)[f"hr@{K}"] == np.mean(ranks <= K)


def test_what_a_narrow_beam_does_not_find_is_missed(view: TrainView) -> None:
    model = tdm(view)
    assert view.validation is not None
    wide = TreeValidator(view.validation, view.encoder, view.user_frame, ITEMS).ranks(model, 1)
    narrow = TreeValidator(view.validation, view.encoder, view.user_frame, 1).ranks(model, 1)
    assert (narrow != wide).any()
    assert narrow.max() == 2


def test_users_without_any_history_are_ranked_by_their_vectors(view: TrainView) -> None:
    model = tdm(view)
    assert view.validation is not None
    newcomers = replace(view.validation, history_end=np.zeros_like(view.validation.history_end))
    by_vector = RankingValidator(newcomers, view.encoder, view.user_frame).ranks(model.users)
    ranks = TreeValidator(newcomers, view.encoder, view.user_frame, ITEMS).ranks(model, ITEMS)
    outside = newcomers.target == OUTSIDE
    assert (ranks[outside] == ITEMS + 1).all()
    eligible = ranks <= ITEMS
    assert eligible.any()
    assert (by_vector[eligible] - ranks[eligible] <= 1).all()  # the item outside the tree may be before it
    assert (by_vector[eligible] >= ranks[eligible]).all()


def test_a_sample_is_ranked_as_the_same_targets_among_all(view: TrainView) -> None:
    model = tdm(view)
    assert view.validation is not None
    few = TreeValidator(view.validation, view.encoder, view.user_frame, ITEMS, most=10).ranks(model, K)
    every = TreeValidator(view.validation, view.encoder, view.user_frame, ITEMS).ranks(model, K)
    assert len(few) == 10
    assert set(few) <= set(every)


def test_workers_rank_each_its_share(view: TrainView) -> None:
    model = tdm(view)
    assert view.validation is not None
    shares = [
        TreeValidator(view.validation, view.encoder, view.user_frame, ITEMS, workers=Ranks(rank, 2)).ranks(model, K)
        for rank in (0, 1)
    ]
    every = TreeValidator(view.validation, view.encoder, view.user_frame, ITEMS).ranks(model, K)
    assert every[0::2].tolist() == shares[0].tolist()
    assert every[1::2].tolist() == shares[1].tolist()

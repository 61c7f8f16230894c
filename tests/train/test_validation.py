"""Validation while training: the whole catalogue, history left out, ties against the target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.recipes import RECIPES
from recsys.recipes.retriever_recipe import RetrieverRecipe
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.export import item_vectors, user_vectors
from recsys.train.ranks import Ranks
from recsys.train.validation import RankingValidator
from recsys.train.view import TrainView


@pytest.fixture(scope="module", params=["last", "time:0.2"])
def view(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    folder: Path = tmp_path_factory.mktemp("planted") / "data"
    return planted_view(folder, Planted(users=90, items=40, clusters=4, mean_length=8), request.param)


def test_ranks_are_those_of_brute_force_over_the_serving_encoder(view: TrainView) -> None:
    torch.manual_seed(0)
    model = build_model(TwoTowerConfig(dim=8), view).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    targets = view.validation
    assert targets is not None
    users = targets.users(0, len(targets), view.user_frame)
    scores = user_vectors(model, view.encoder.encode_users(users)) @ item_vectors(model).T
    expected = []
    for b, target in enumerate(targets.target):
        eligible = np.ones(len(view.catalogue), bool) if targets.eligible is None else targets.eligible.allowed.copy()
        eligible[users.excluded[b]] = False
        others = scores[b][eligible & (np.arange(len(view.catalogue)) != target)]
        expected.append(1 + int((others > scores[b][target] - 1e-6).sum()) if eligible[target] else 41)
    assert RankingValidator(targets, view.encoder, view.user_frame).ranks(model).tolist() == expected


def test_a_model_that_scores_all_items_alike_ranks_every_target_last(view: TrainView) -> None:
    model = build_model(TwoTowerConfig(dim=8, item_fields="none"), view).eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    targets = view.validation
    assert targets is not None
    ranks = RankingValidator(targets, view.encoder, view.user_frame).ranks(model)
    users = targets.users(0, len(targets))
    allowed = len(view.catalogue) if targets.eligible is None else targets.eligible.count
    fresh = np.array([len(np.unique(users.excluded[b])) for b in range(len(users))])
    assert (ranks >= allowed - fresh).all()


@pytest.mark.parametrize("name", ["two_tower", "mind"])
def test_users_without_any_history_are_ranked_too(view: TrainView, name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe, RetrieverRecipe)
    model = recipe.build_model(recipe.config_type(dim=8), view).eval()  # type: ignore[attr-defined]
    assert view.validation is not None
    newcomers = replace(view.validation, history_end=np.zeros_like(view.validation.history_end))
    assert not newcomers.users(0, len(newcomers)).history.lengths.any()
    assert (RankingValidator(newcomers, view.encoder, view.user_frame).ranks(model) >= 1).all()


def test_each_of_several_workers_ranks_its_share_of_the_targets(view: TrainView) -> None:
    torch.manual_seed(0)
    model = build_model(TwoTowerConfig(dim=8), view).eval()
    assert view.validation is not None
    whole = RankingValidator(view.validation, view.encoder, view.user_frame).ranks(model)
    for rank in range(3):
        share = RankingValidator(view.validation, view.encoder, view.user_frame, 0, Ranks(rank, 3))
        assert share.ranks(model).tolist() == whole[rank::3].tolist()

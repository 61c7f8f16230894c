"""Items that training did not show: attributes alone put them before the users whom they suit, once ids were hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data.interactions import EvaluationSet
from recsys.models.tdm import Tdm
from recsys.recipes.retriever_recipe import train
from recsys.recipes.tdm_config import TdmConfig
from recsys.recipes.tdm_training import _objective as round_objective
from recsys.recipes.tdm_trees import first_tree
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.progress import QuietProgress
from recsys.train.tree_objective import TreeObjective
from recsys.train.validation import RankingValidator
from recsys.train.view import TrainView

ITEMS = 120
UNSEEN = range(5, ITEMS, 9)
WORLD = Planted(users=400, items=ITEMS, clusters=4, mean_length=15, stickiness=0.9)
CONFIG = TwoTowerConfig(dim=16, history="mean", max_epochs=15, batch_users=32, lr=1e-2, dropout=0.1)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    return planted_view(tmp_path_factory.mktemp("cold") / "data", WORLD, unseen=UNSEEN)


def only(targets: EvaluationSet, keep: np.ndarray) -> EvaluationSet:  # type: ignore[type-arg]
    return replace(targets, user=targets.user[keep], history_end=targets.history_end[keep], target=targets.target[keep])


def median_ranks(view: TrainView, scratch: Path, **settings: object) -> tuple[float, float]:
    """Of validation targets that training showed, and of those it did not, among all items."""
    torch.manual_seed(0)
    config = CONFIG.model_copy(update=settings)
    model = build_model(config, view)
    train(model, config, view, QuietProgress(scratch))
    assert view.validation is not None
    unseen = np.isin(view.validation.target, UNSEEN)
    warm, cold = (
        RankingValidator(only(view.validation, keep), view.encoder, view.user_frame).ranks(model.eval())
        for keep in (~unseen, unseen)
    )
    assert len(cold) > 25
    return float(np.median(warm)), float(np.median(cold))


def test_an_unseen_item_sinks_where_ids_were_never_hidden(view: TrainView, tmp_path: Path) -> None:
    _, cold = median_ranks(view, tmp_path)
    assert cold > 0.75 * ITEMS


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_an_unseen_item_is_found_among_those_of_its_kind_once_ids_were_hidden(
    view: TrainView, tmp_path: Path, loss: str
) -> None:
    """A quarter of the items is of the user's cluster; which of them comes next only the known ones can tell."""
    warm, cold = median_ranks(view, tmp_path, id_dropout=0.2, loss=loss)
    assert warm < ITEMS / 8
    assert cold < ITEMS / 4


def test_ids_are_not_hidden_where_there_is_nothing_else_to_see(view: TrainView) -> None:
    config = CONFIG.model_copy(update={"id_dropout": 0.2})
    assert build_model(config, view).shape.id_dropout == 0.2
    assert build_model(config.model_copy(update={"item_fields": "none"}), view).shape.id_dropout == 0.0


def test_a_trees_leaves_are_hidden_alike(view: TrainView) -> None:
    config = TdmConfig(dim=16, history="mean", id_dropout=0.2, tree="random")
    users = build_model(config, view, "tdm")
    model = Tdm(users, first_tree(users, config, view))
    objective = round_objective(model, config, view, last=True)
    assert isinstance(objective, TreeObjective)
    assert objective.shown is not None
    assert objective.shown.tolist() == np.unique(view.train.rows).tolist()
    assert not np.isin(UNSEEN, objective.shown).any()

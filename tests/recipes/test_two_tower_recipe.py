"""The two-tower recipe end to end: what it leaves serves what torch computes, and finds what was planted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle.component import read_component
from recsys.errors import ConfigError
from recsys.recipes import RECIPES
from recsys.recipes.recipe import Recipe
from recsys.recipes.retriever_recipe import train
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.retrieval.vector_channel import VectorChannel
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.progress import QuietProgress
from recsys.train.validation import RankingValidator
from recsys.train.view import TrainView

WORLD = Planted(users=400, items=120, clusters=4, mean_length=15)
CONFIG = TwoTowerConfig(dim=16, blocks=1, heads=2, widening=2, max_epochs=12, batch_users=32, lr=5e-3, dropout=0.1)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    return planted_view(tmp_path_factory.mktemp("planted") / "data", WORLD)


@pytest.fixture(scope="module")
def fitted(view: TrainView, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("fitted")
    return out, RECIPES["two_tower"].fit(CONFIG, view, {}, out, QuietProgress(tmp_path_factory.mktemp("scratch")))


def opened(out: Path, view: TrainView) -> VectorChannel:
    directory = out / "components" / "two_tower"
    options = read_component(directory).options
    return VectorChannel.open("two_tower", directory, options, view.catalogue, view.encoder)


def hit_rate(lists: list[np.ndarray], view: TrainView) -> float:  # type: ignore[type-arg]
    assert view.validation is not None
    return float(np.mean([t in found for t, found in zip(view.validation.target, lists, strict=True)]))


def test_every_recipe_keeps_to_the_seam() -> None:
    for name, recipe in RECIPES.items():
        checked: Recipe = recipe
        assert checked.name == name
        assert checked.config_type()


def test_it_leaves_a_channel_and_a_scorer_made_for_this_view(
    view: TrainView, fitted: tuple[Path, dict[str, float]]
) -> None:
    out, metrics = fitted
    channel = read_component(out / "components" / "two_tower")
    scorer = read_component(out / "components" / "two_tower_scorer")
    assert (channel.kind, channel.type) == ("channel", "vector")
    assert (scorer.kind, scorer.type, scorer.options) == ("scorer", "vector_scorer", {"channel": "two_tower"})
    assert channel.feature_set_hash == scorer.feature_set_hash == view.features.hash
    assert channel.catalogue_hash == scorer.catalogue_hash == view.catalogue.hash
    assert channel.metrics == metrics
    assert metrics["parity_error"] <= 1e-5
    assert {"epochs", "validation_ndcg@10", "validation_hr@10", "samples_per_s", "index_recall_at_100"} <= set(metrics)


def test_a_learned_two_tower_beats_popularity_on_planted_data(
    view: TrainView, fitted: tuple[Path, dict[str, float]]
) -> None:
    assert view.validation is not None
    users = view.validation.users(0, len(view.validation), view.user_frame)
    found = opened(fitted[0], view).recall(users, 10)
    counts = np.bincount(view.train.rows, minlength=len(view.catalogue))
    popular = []
    for b in range(len(users)):
        left = np.where(np.isin(np.arange(len(counts)), users.excluded[b]), -1, counts)
        popular.append(np.argsort(-left)[:10])
    learned = hit_rate([found.of(b)[0] for b in range(len(users))], view)
    assert learned > 1.5 * hit_rate(popular, view)


def test_served_hits_are_what_validation_measured(view: TrainView, fitted: tuple[Path, dict[str, float]]) -> None:
    assert view.validation is not None
    users = view.validation.users(0, len(view.validation), view.user_frame)
    found = opened(fitted[0], view).recall(users, 10)
    served = hit_rate([found.of(b)[0] for b in range(len(users))], view)
    assert abs(served - fitted[1]["validation_hr@10"]) < 1e-9


def test_index_scores_are_brute_force_over_the_item_vectors(
    view: TrainView, fitted: tuple[Path, dict[str, float]]
) -> None:
    assert view.validation is not None
    channel = opened(fitted[0], view)
    users = view.validation.users(0, 50, view.user_frame)
    everything = channel.user_vectors(users) @ channel.item_vectors(np.arange(len(view.catalogue), dtype=np.int32)).T
    found = channel.recall(users, 20)
    for b in range(50):
        allowed = np.ones(len(view.catalogue), bool)
        allowed[users.excluded[b]] = False
        rows, scores = found.of(b)
        best = np.sort(everything[b][allowed])[::-1][:20]
        assert np.allclose(scores, best, atol=1e-5)
        assert np.allclose(everything[b][rows], scores, atol=1e-5)


def test_the_report_shows_curve_weights_and_index(fitted: tuple[Path, dict[str, float]]) -> None:
    component = fitted[0] / "components" / "two_tower"
    record = json.loads((component / "training.json").read_text())
    assert set(record["field_weights"]) == {"item", "user"}
    assert "history" in record["field_weights"]["user"]
    (section,) = RECIPES["two_tower"].sections(component, {})
    assert len(section.blocks) == 4
    assert RECIPES["two_tower"].sections(fitted[0] / "components" / "two_tower_scorer", {}) == []


def test_a_refit_runs_the_given_epochs_and_no_validation(view: TrainView, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    refit = replace(view, chosen={"epochs": 2})
    config = CONFIG.model_copy(update={"history": "mean", "similarity": "cosine"})
    metrics = RECIPES["two_tower"].fit(config, refit, {}, tmp_path, QuietProgress(tmp_path / "scratch"))
    assert metrics["epochs"] == 2
    assert "validation_ndcg@10" not in metrics


def test_a_warm_start_from_itself_begins_where_the_source_ended(
    view: TrainView, fitted: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    source, metrics = fitted
    view.features.save(source / "features")
    (tmp_path / "scratch").mkdir()
    config = CONFIG.model_copy(update={"max_epochs": 2})  # half of it: one epoch
    warm = RECIPES["two_tower"].fit(
        config, replace(view, start=source), {}, tmp_path, QuietProgress(tmp_path / "scratch")
    )
    assert warm["start_validation_ndcg@10"] == metrics["validation_ndcg@10"]
    assert warm["start_validation_hr@10"] == metrics["validation_hr@10"]
    assert warm["epochs"] == 1
    assert (warm["started_items"], warm["new_items"]) == (len(view.features.items), 0)
    assert warm["validation_ndcg@10"] > 0.9 * metrics["validation_ndcg@10"]


@pytest.mark.parametrize("frequency", ["counted", "streaming"])
def test_sampled_softmax_learns_nearly_what_the_full_one_does(
    view: TrainView, full_ndcg: float, tmp_path: Path, frequency: str
) -> None:
    sampled = {"loss": "sampled_softmax", "in_batch_negatives": 128, "uniform_negatives": 64, "frequency": frequency}
    assert ndcg_of_means(view, tmp_path, sampled) > 0.75 * full_ndcg


@pytest.fixture(scope="module")
def full_ndcg(view: TrainView, tmp_path_factory: pytest.TempPathFactory) -> float:
    return ndcg_of_means(view, tmp_path_factory.mktemp("full"), {"loss": "full_softmax"})


def ndcg_of_means(view: TrainView, scratch: Path, settings: dict[str, object]) -> float:
    """What a two-tower with a mean-pooled history learns under other settings."""
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"history": "mean", **settings})
    model = build_model(config, view)
    train(model, config, view, QuietProgress(scratch))
    assert view.validation is not None
    return RankingValidator(view.validation, view.encoder, view.user_frame)(model)["ndcg@10"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hard_negatives": 8}, "two_tower.hard_negatives = 8: belongs to the sampled softmax, and 120 items"),
        ({"memory_batches": 2}, "two_tower.memory_batches = 2: belongs to the sampled softmax"),
        ({"loss": "sampled_softmax", "exclude_history": True}, "exclude_history = True: belongs to the full softmax"),
        ({"loss": "sampled_softmax", "label_smoothing": 0.1}, "label_smoothing = 0.1: belongs to the full softmax"),
        (
            {"loss": "sampled_softmax", "memory_batches": 2, "correction": "none"},
            "two_tower.memory_batches: remembered columns need a correction",
        ),
    ],
)
def test_settings_of_a_loss_that_is_not_used_are_refused(
    view: TrainView, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    config = TwoTowerConfig.model_validate(settings)
    with pytest.raises(ConfigError, match=message):
        train(build_model(config, view), config, view, QuietProgress(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 10, "heads": 4}, "heads = 4: must divide dim = 10"),
        ({"dim": 12, "heads": 4, "positions": "rotary"}, "rotary: 12 / 4 heads is odd"),
        ({"history_length": 9999}, "history_length = 9999: the features keep"),
        ({"item_fields": ("colour",)}, "item_fields: there is no field 'colour'; there are: category"),
    ],
)
def test_settings_that_do_not_fit_are_named(view: TrainView, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(TwoTowerConfig.model_validate(settings), view)

"""The MIND recipe: it learns, exports what it learnt, and its channel answers with what torch computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.bundle.component import read_component
from recsys.columns import ITEM_ID, USER_ID
from recsys.errors import ConfigError
from recsys.features.definition import FeatureDefinition, IdFeature
from recsys.features.feature_set import FeatureSet
from recsys.recipes import RECIPES
from recsys.recipes.mind import MindConfig, MindRecipe
from recsys.retrieval.interests_channel import InterestsChannel
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.progress import QuietProgress
from recsys.train.view import TrainView

WORLD = Planted(users=400, items=120, clusters=4, mean_length=15)
CONFIG = MindConfig(dim=16, interests=3, max_epochs=12, batch_users=32, lr=5e-3, dropout=0.1)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    return planted_view(tmp_path_factory.mktemp("planted") / "data", WORLD)


@pytest.fixture(scope="module")
def fitted(view: TrainView, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("fitted")
    return out, RECIPES["mind"].fit(CONFIG, view, {}, out, QuietProgress(tmp_path_factory.mktemp("scratch")))


def opened(out: Path, view: TrainView) -> InterestsChannel:
    directory = out / "components" / "mind"
    options = read_component(directory).options
    return InterestsChannel.open("mind", directory, options, view.catalogue, view.encoder)


def hits(lists: list[np.ndarray], view: TrainView) -> float:  # type: ignore[type-arg]
    assert view.validation is not None
    return float(np.mean([t in found for t, found in zip(view.validation.target, lists, strict=True)]))


def test_it_leaves_a_channel_made_for_this_view(view: TrainView, fitted: tuple[Path, dict[str, float]]) -> None:
    out, metrics = fitted
    channel = read_component(out / "components" / "mind")
    assert (channel.kind, channel.type) == ("channel", "interests")
    assert channel.options["interests"] == 3
    assert channel.feature_set_hash == view.features.hash
    assert channel.catalogue_hash == view.catalogue.hash
    assert channel.metrics == metrics
    assert metrics["parity_error"] <= 1e-5
    assert opened(out, view).interests_at_most == 3


def test_a_learned_mind_beats_popularity_on_planted_data(
    view: TrainView, fitted: tuple[Path, dict[str, float]]
) -> None:
    assert view.validation is not None
    users = view.validation.users(0, len(view.validation), view.user_frame)
    found = opened(fitted[0], view).recall(users, 10)
    counts = np.bincount(view.train.rows, minlength=len(view.catalogue))
    popular = [
        np.argsort(-np.where(np.isin(np.arange(len(counts)), users.excluded[b]), -1, counts))[:10]
        for b in range(len(users))
    ]
    assert hits([found.of(b)[0] for b in range(len(users))], view) > 1.5 * hits(popular, view)


def test_served_hits_are_what_validation_measured(view: TrainView, fitted: tuple[Path, dict[str, float]]) -> None:
    assert view.validation is not None
    users = view.validation.users(0, len(view.validation), view.user_frame)
    found = opened(fitted[0], view).recall(users, 10)
    served = hits([found.of(b)[0] for b in range(len(users))], view)
    assert abs(served - fitted[1]["validation_hr@10"]) < 1e-9


def test_the_channels_answer_is_brute_force_over_every_interest(
    view: TrainView, fitted: tuple[Path, dict[str, float]]
) -> None:
    assert view.validation is not None
    channel = opened(fitted[0], view)
    users = view.validation.users(0, 60, view.user_frame)
    vectors, counts = channel.interests(users)
    assert set(counts.tolist()) == {1, 2, 3}
    items = channel.item_vectors(np.arange(len(view.catalogue), dtype=np.int32))
    found = channel.recall(users, 20)
    for b in range(60):
        allowed = np.ones(len(view.catalogue), bool)
        allowed[users.excluded[b]] = False
        greatest = (vectors[b] @ items.T).max(axis=0)
        rows, scores = found.of(b)
        assert np.allclose(scores, np.sort(greatest[allowed])[::-1][:20], atol=1e-5)
        assert np.allclose(greatest[rows], scores, atol=1e-5)


def test_the_report_shows_curve_weights_and_index(fitted: tuple[Path, dict[str, float]]) -> None:
    component = fitted[0] / "components" / "mind"
    assert set(json.loads((component / "training.json").read_text())["field_weights"]) == {"item"}
    (section,) = RECIPES["mind"].sections(component, {})
    assert section.title == "MIND"


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "sampled_softmax", "in_batch_negatives": 128, "uniform_negatives": 64},
        {"credit": "max"},
        {"credit": "label"},
        {"credit": "label", "power": 2.0, "routing": "accumulate"},
        {"similarity": "cosine", "places": 0.4},
    ],
    ids=str,
)
def test_other_losses_learn_too(view: TrainView, tmp_path: Path, settings: dict[str, object]) -> None:
    (tmp_path / "scratch").mkdir()
    config = CONFIG.model_copy(update={"max_epochs": 5, **settings})
    metrics = RECIPES["mind"].fit(config, view, {}, tmp_path, QuietProgress(tmp_path / "scratch"))
    assert metrics["validation_hr@10"] > 0.3


def test_a_warm_start_from_itself_begins_where_the_source_ended(
    view: TrainView, fitted: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    source, metrics = fitted
    view.features.save(source / "features")
    (tmp_path / "scratch").mkdir()
    config = CONFIG.model_copy(update={"max_epochs": 2, "credit": "label"})
    warm = RECIPES["mind"].fit(config, replace(view, start=source), {}, tmp_path, QuietProgress(tmp_path / "scratch"))
    assert warm["start_validation_ndcg@10"] == metrics["validation_ndcg@10"]


def test_features_without_a_history_are_refused(view: TrainView) -> None:
    without = FeatureSet.fit(
        FeatureDefinition(features=(IdFeature(side="item"),)),
        items=pl.DataFrame({ITEM_ID: view.catalogue.ids}),
        users=view.user_frame,
        events=pl.DataFrame({USER_ID: [1], ITEM_ID: [100]}),
    )
    with pytest.raises(ConfigError, match="interests come out of a history"):
        MindRecipe().build_model(CONFIG, replace(view, features=without))


def test_no_interests_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="interests"):
        MindConfig.model_validate({"interests": 0})

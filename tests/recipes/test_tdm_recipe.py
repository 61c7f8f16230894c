"""The TDM recipe end to end: what it leaves serves what torch computes, over a tree that holds every item once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from recsys.bundle.component import read_component
from recsys.errors import ConfigError
from recsys.index.item_tree import ItemTree
from recsys.recipes.tdm import TdmRecipe
from recsys.recipes.tdm_config import TdmConfig
from recsys.recipes.tdm_training import Stage
from recsys.recipes.tdm_trees import first_tree
from recsys.recipes.two_tower import build_model
from recsys.retrieval.tree_channel import TreeChannel
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.progress import QuietProgress
from recsys.train.view import TrainView

WORLD = Planted(users=150, items=50, clusters=3, mean_length=12)
CONFIG = TdmConfig(
    dim=8,
    blocks=1,
    heads=1,
    history="recency",
    tree="categories",
    rounds=2,
    round_epochs=4,
    max_epochs=6,
    batch_users=16,
    lr=1e-2,
    dropout=0.0,
)

Fitted = tuple[Path, dict[str, float]]
WEIGHTS = Path("components") / "tdm" / "weights.safetensors"


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    return planted_view(tmp_path_factory.mktemp("planted") / "data", WORLD)


@pytest.fixture(scope="module", params=["clusters", "likelihood", "beam", "vectors"])
def fitted(request: pytest.FixtureRequest, view: TrainView, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    settings = {
        "clusters": {},
        "likelihood": {"relearning": "likelihood"},
        "beam": {"loss": "beam", "training_beam": 6},
        "vectors": {"tree": "vectors", "relearning": "likelihood"},
    }
    return fit(view, tmp_path_factory.mktemp(request.param), **settings[request.param])


def fit(view: TrainView, folder: Path, **settings: object) -> Fitted:
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    config = TdmConfig.model_validate(CONFIG.model_dump() | settings)
    return out, TdmRecipe().fit(config, view, {}, out, QuietProgress(scratch))


def opened(out: Path, view: TrainView) -> TreeChannel:
    directory = out / "components" / "tdm"
    return TreeChannel.open("tdm", directory, read_component(directory).options, view.catalogue, view.encoder)


def hit_rate(channel: TreeChannel, view: TrainView, k: int = 10) -> float:
    assert view.validation is not None
    found = channel.recall(view.validation.users(0, len(view.validation), view.user_frame), k)
    return float(np.mean([target in found.of(u)[0] for u, target in enumerate(view.validation.target)]))


def test_it_finds_what_was_planted_and_says_so(view: TrainView, fitted: Fitted) -> None:
    out, metrics = fitted
    served = hit_rate(opened(out, view), view)
    assert served > 1.5 * 10 / WORLD.items
    assert served == pytest.approx(metrics["validation_hr@10"], abs=1e-9)  # the default beam sees every leaf here


def test_every_item_has_a_leaf_after_the_tree_was_learned_anew(view: TrainView, fitted: Fitted) -> None:
    tree = ItemTree.open(fitted[0] / "components" / "tdm" / "tree")
    assert sorted(tree.rows[tree.rows >= 0].tolist()) == list(range(WORLD.items))


def test_a_narrow_beam_finds_most_of_what_all_leaves_would_give(view: TrainView, fitted: Fitted) -> None:
    record = json.loads((fitted[0] / "components" / "tdm" / "training.json").read_text())
    assert [len(one["curve"]) <= 4 for one in record["rounds"]] == [True, True]
    *narrow, exact = record["rounds"][-1]["beams"]
    assert exact["recall"]["10"] == 1.0
    assert exact["regret"]["10"] == 0.0
    assert narrow[0]["beam"] == 10
    assert narrow[0]["recall"]["10"] > 1.5 * 10 / WORLD.items
    assert narrow[0]["nodes_scored"] <= 2 * 10 * 6


def test_like_items_lie_below_one_node(view: TrainView, tmp_path: Path) -> None:
    """Of the planted clusters, of which the first tree at random knows nothing."""
    out, _ = fit(view, tmp_path, tree="random", item_fields="none")
    tree = ItemTree.open(out / "components" / "tdm" / "tree")
    pairs = tree.rows[tree.left_to_right()]
    pairs = pairs[pairs >= 0]
    alike = float(np.mean(pairs[1:] % WORLD.clusters == pairs[:-1] % WORLD.clusters))
    assert alike > 0.6  # a third by chance


def test_the_first_tree_follows_the_categories(view: TrainView) -> None:
    tree = first_tree(build_model(CONFIG, view, "tdm"), CONFIG, view)
    order = tree.rows[tree.left_to_right()]
    clusters = order[order >= 0] % WORLD.clusters
    assert np.count_nonzero(clusters[1:] != clusters[:-1]) == WORLD.clusters - 1


def test_a_refit_takes_the_epochs_of_every_round_from_its_twin(view: TrainView, tmp_path: Path) -> None:
    chosen = {"epochs_of_round_1": 1.0, "epochs_of_round_2": 2.0}
    out, metrics = fit(replace(view, validation=None, chosen=chosen), tmp_path)
    record = json.loads((out / "components" / "tdm" / "training.json").read_text())
    assert [len(one["curve"]) for one in record["rounds"]] == [1, 2]
    assert {name: metrics[name] for name in chosen} == chosen


def test_a_refit_takes_the_epochs_of_towers_alone_too(view: TrainView, tmp_path: Path) -> None:
    chosen = {"epochs": 3.0, "epochs_of_round_1": 1.0}
    refit = replace(view, validation=None, chosen=chosen)
    out, metrics = fit(refit, tmp_path, tree="vectors", rounds=1)
    record = json.loads((out / "components" / "tdm" / "training.json").read_text())
    assert [len(stage["curve"]) for stage in (record["alone"], *record["rounds"])] == [3, 1]
    assert {name: metrics[name] for name in chosen} == chosen


def test_rounds_on_a_tree_of_vectors_leave_the_towers_as_they_are(view: TrainView, tmp_path: Path) -> None:
    """And the leaves with them; inner nodes are learned."""
    few, many = (
        fit(view, tmp_path / str(epochs), tree="vectors", rounds=1, round_epochs=epochs, patience=9)[0]
        for epochs in (1, 3)
    )
    assert (few / WEIGHTS).read_bytes() == (many / WEIGHTS).read_bytes()
    shorter, longer = opened(few, view).attention, opened(many, view).attention
    first = shorter.tree.first_leaf
    assert shorter.tree.rows.tolist() == longer.tree.rows.tolist()
    assert np.array_equal(shorter.nodes[first:], longer.nodes[first:])
    assert not np.array_equal(shorter.nodes[:first], longer.nodes[:first])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "settings", [{}, {"relearning": "likelihood"}, {"loss": "beam"}, {"tree": "vectors", "rounds": 1}]
)
def test_a_fit_on_a_gpu_leaves_what_one_on_a_cpu_does(
    view: TrainView, tmp_path: Path, settings: dict[str, object]
) -> None:
    out, metrics = fit(replace(view, device="cuda"), tmp_path / "gpu", precision="auto", **settings)
    _, other = fit(replace(view, device="cpu"), tmp_path / "cpu", **settings)
    assert hit_rate(opened(out, view), view) == pytest.approx(metrics["validation_hr@10"], abs=0.02)
    assert metrics["validation_hr@10"] == pytest.approx(other["validation_hr@10"], abs=0.1)


def test_no_behaviour_is_attended_to_that_training_never_showed(view: TrainView, tmp_path: Path) -> None:
    out, _ = fit(view, tmp_path, history_length=5, attended=50, round_epochs=1)
    assert opened(out, view).attention.attended == 5


def test_a_budget_of_seconds_is_that_of_all_stages(tmp_path: Path) -> None:
    stage = Stage(QuietProgress(tmp_path), "round 1 of 2", 1, 3)
    assert stage.part_of(90.0) == 30.0
    assert stage.part_of(None) is None


def test_clusters_of_vectors_that_do_not_move_are_refused() -> None:
    with pytest.raises(ValidationError, match="relearning = likelihood or none"):
        TdmConfig(tree="vectors", rounds=2, relearning="clusters")


def test_the_report_shows_rounds_beams_and_the_top_of_the_tree(fitted: Fitted) -> None:
    (section,) = TdmRecipe().sections(fitted[0] / "components" / "tdm", {})
    assert section.title == "TDM"
    assert "2 rounds" in section.intro
    assert "cluster" in str(section.blocks[-1])


def test_a_component_of_another_kind_has_no_section(tmp_path: Path) -> None:
    assert TdmRecipe().sections(tmp_path, {}) == []


def test_a_catalogue_of_one_item_is_refused(tmp_path: Path) -> None:
    view = planted_view(tmp_path / "data", Planted(users=20, items=1, clusters=1, mean_length=1))
    with pytest.raises(ConfigError, match="two items at least"):
        fit(view, tmp_path)


@pytest.mark.parametrize("settings", [{"tree": "vectors", "rounds": 1}, {}, {"loss": "beam", "training_beam": 1}])
def test_a_catalogue_of_two_items_is_not(settings: dict[str, object], tmp_path: Path) -> None:
    view = planted_view(tmp_path / "data", Planted(users=20, items=2, clusters=1, mean_length=5, reach=1))
    out, _ = fit(view, tmp_path, round_epochs=1, max_epochs=1, **settings)
    assert view.validation is not None
    users = view.validation.users(0, len(view.validation), view.user_frame)
    assert set(opened(out, view).recall(users, 10).rows.tolist()) == {0, 1}

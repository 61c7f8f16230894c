"""A TDM that starts warm: the tree, its inner nodes and its attention are those of the earlier run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle.component import read_component
from recsys.errors import BundleError, ConfigError
from recsys.index.item_tree import ItemTree
from recsys.index.node_attention import NodeAttention
from recsys.index.tree_building import by_two_means
from recsys.recipes.tdm import TdmRecipe
from recsys.recipes.tdm_config import TdmConfig
from recsys.recipes.tdm_trees import Begun, begun, started_towers
from recsys.recipes.two_tower import build_model
from recsys.retrieval.tree_channel import TreeChannel
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.export import item_vectors, node_attention
from recsys.train.progress import QuietProgress
from recsys.train.view import TrainView
from recsys.types import Ids

WORLD = Planted(users=150, items=60, clusters=2, mean_length=12)
CONFIG = TdmConfig(
    dim=8,
    blocks=1,
    heads=1,
    history="recency",
    tree="categories",
    rounds=2,
    round_epochs=4,
    batch_users=16,
    lr=1e-2,
    dropout=0.0,
    slack=0.2,
    attended=10,
)
GONE, NEW = (103, 110, 131), (107, 112, 124, 145)
"""Items that only the older and only the newer catalogue have; those of odd id are of one cluster."""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    return planted_view(tmp_path_factory.mktemp("older") / "data", WORLD, without=NEW)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    return planted_view(tmp_path_factory.mktemp("newer") / "data", WORLD, without=GONE)


@pytest.fixture(scope="module")
def earlier(older: TrainView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fit leaves of a bundle."""
    return fit(CONFIG, older, tmp_path_factory.mktemp("earlier"))[0]


def fit(config: TdmConfig, view: TrainView, folder: Path) -> tuple[Path, dict[str, float]]:
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True)
    scratch.mkdir()
    metrics = TdmRecipe().fit(config, view, {}, out, QuietProgress(scratch))
    view.features.save(out / "features")
    view.catalogue.save(out)
    return out, metrics


def begin(config: TdmConfig, view: TrainView, start: Path) -> Begun:
    warm = replace(view, start=start)
    towers = build_model(config, warm, "tdm")
    started_towers(towers, config, warm)
    return begun(towers, config, warm)


def served(bundle: Path) -> NodeAttention:
    directory = bundle / "components" / "tdm" / "tree"
    return NodeAttention.open(directory, ItemTree.open(directory))


def leaves_of(tree: ItemTree, view: TrainView, ids: Ids) -> Ids:
    return tree.leaves[view.catalogue.rows_of(ids)]


def test_whatever_stays_keeps_its_leaf_and_a_leaf_that_was_left_is_free(
    older: TrainView, newer: TrainView, earlier: Path
) -> None:
    before, after = served(earlier).tree, begin(CONFIG, newer, earlier).model.tree.held
    stays = np.intersect1d(older.catalogue.ids, newer.catalogue.ids)
    assert len(stays) == WORLD.items - len(GONE) - len(NEW)
    assert np.array_equal(leaves_of(after, newer, stays), leaves_of(before, older, stays))
    assert after.slots == before.slots
    held = after.rows[leaves_of(before, older, np.array(GONE))]
    assert np.isin(newer.catalogue.ids[held[held >= 0]], NEW).all()
    after.check_holds(newer.catalogue.ids)


def test_a_new_item_goes_to_the_half_of_its_cluster(newer: TrainView, earlier: Path) -> None:
    tree = begin(CONFIG, newer, earlier).model.tree.held
    half = tree.ancestors(np.arange(len(newer.catalogue), dtype=np.int32), 1)
    odd, new = newer.catalogue.ids % 2 == 1, np.isin(newer.catalogue.ids, NEW)
    of_odd = np.bincount(half[odd & ~new]).argmax()
    assert ((half == of_odd) == odd)[~new].mean() > 0.8
    assert ((half == of_odd) == odd)[new].all()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_inner_nodes_and_attention_are_what_they_were(
    older: TrainView, newer: TrainView, tmp_path: Path, similarity: str
) -> None:
    config = CONFIG.model_copy(update={"similarity": similarity, "round_epochs": 1, "rounds": 1})
    start, ended = fit(config, older, tmp_path)
    before, went_on = served(start), begin(config, newer, start)
    after = node_attention(went_on.model)
    for name in ("keys", "values", "age_weight"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    inner = slice(0, before.tree.first_leaf)
    assert np.array_equal(went_on.model.inner.weight.detach().numpy(), before.nodes[inner])
    assert np.allclose(after.nodes[inner], before.nodes[inner], rtol=0, atol=1e-6)  # cosine: made unit vectors again
    _, same = fit(config, replace(older, start=start), tmp_path / "same")
    assert same["start_validation_ndcg@10"] == pytest.approx(ended["validation_ndcg@10"], rel=1e-6)


def test_it_is_said_what_was_taken_over(newer: TrainView, earlier: Path) -> None:
    metrics = begin(CONFIG, newer, earlier).metrics
    assert metrics["kept_leaves"] == len(newer.catalogue) - len(NEW)
    assert (metrics["inserted_items"], metrics["removed_items"]) == (len(NEW), len(GONE))


def test_ages_that_are_new_count_as_the_oldest_known(newer: TrainView, earlier: Path) -> None:
    known = served(earlier).age_weight
    for attended in (5, 20):
        longer = begin(CONFIG.model_copy(update={"attended": attended}), newer, earlier)
        weights = longer.model.attention.age_weight.detach().numpy()
        assert np.array_equal(weights, np.pad(known, (0, 10), mode="edge")[:attended])


def test_more_new_items_than_vacant_leaves_make_a_new_tree(newer: TrainView, tmp_path: Path) -> None:
    few = planted_view(tmp_path / "data", WORLD, without=range(100, 120))
    small = CONFIG.model_copy(update={"round_epochs": 1, "rounds": 1, "slack": 0.1})
    start, _ = fit(small, few, tmp_path)
    warm = begin(small, newer, start)
    tree = warm.model.tree.held
    assert tree.slots == -(-len(newer.catalogue) * 11 // 10)
    tree.check_holds(newer.catalogue.ids)
    assert warm.metrics["kept_leaves"] == warm.metrics["inserted_items"] == 0
    assert np.array_equal(warm.model.attention.key.detach().numpy(), served(start).keys)
    averaged = warm.model.inner.weight.clone()
    warm.model.average_leaves()
    assert torch.equal(warm.model.inner.weight, averaged)


def test_a_tree_is_built_anew_on_request(newer: TrainView, earlier: Path) -> None:
    asked = CONFIG.model_copy(update={"warm_tree": "rebuilt"})
    warm = begin(asked, newer, earlier)
    assert warm.metrics["kept_leaves"] == 0
    clusters = by_two_means(item_vectors(warm.model.users)[:, : CONFIG.dim], CONFIG.slack, newer.seed)
    assert np.array_equal(warm.model.tree.held.rows, clusters.rows)
    assert np.array_equal(warm.model.attention.key.detach().numpy(), served(earlier).keys)


def test_a_fit_is_ahead_of_one_from_scratch_and_answers_with_what_is_new_and_without_what_is_gone(
    newer: TrainView, earlier: Path, tmp_path: Path
) -> None:
    night = CONFIG.model_copy(update={"rounds": 1, "round_epochs": 2})
    out, metrics = fit(night, replace(newer, start=earlier), tmp_path / "warm")
    cold, _ = fit(night, newer, tmp_path / "cold")
    first_warm, first_cold = (
        json.loads((run / "components" / "tdm" / "training.json").read_text())["rounds"][0]["curve"][0]["metrics"]
        for run in (out, cold)
    )
    assert first_warm["ndcg@10"] > 1.2 * first_cold["ndcg@10"]
    assert metrics["inserted_items"] == read_component(out / "components" / "tdm").metrics["inserted_items"] == len(NEW)

    directory = out / "components" / "tdm"
    channel = TreeChannel.open("tdm", directory, read_component(directory).options, newer.catalogue, newer.encoder)
    assert newer.validation is not None
    found = channel.recall(newer.validation.users(0, 20, newer.user_frame), WORLD.items)
    answered = set(newer.catalogue.ids[found.rows].tolist())
    assert answered.isdisjoint(GONE)
    assert answered > set(NEW)


def test_a_tree_that_was_kept_is_learned_anew_between_rounds(newer: TrainView, earlier: Path, tmp_path: Path) -> None:
    out, _ = fit(CONFIG.model_copy(update={"round_epochs": 1}), replace(newer, start=earlier), tmp_path)
    before, after = served(earlier).tree, served(out).tree
    after.check_holds(newer.catalogue.ids)
    assert after.slots == before.slots


def test_other_settings_are_refused(newer: TrainView, earlier: Path) -> None:
    with pytest.raises(ConfigError, match=r"tdm\.dim = 4: the run to start from has 8"):
        begin(CONFIG.model_copy(update={"dim": 4}), newer, earlier)


def test_a_tree_that_is_damaged_or_not_there_is_refused_by_its_file(
    newer: TrainView, earlier: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(earlier, damaged)
    nodes = damaged / "components" / "tdm" / "tree" / "node_vectors.npy"
    nodes.write_bytes(nodes.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"node_vectors\.npy: missing or damaged"):
        begin(CONFIG, newer, damaged)
    shutil.rmtree(nodes.parent)
    with pytest.raises(BundleError, match=r"rows\.npy: missing or damaged"):
        begin(CONFIG, newer, damaged)
    shutil.rmtree(damaged / "components" / "tdm")
    with pytest.raises(BundleError, match="not the weights of a model"):
        begin(CONFIG, newer, damaged)


def test_a_tree_of_another_catalogue_is_refused(newer: TrainView, earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier, tmp_path / "mixed")
    newer.catalogue.save(tmp_path / "mixed")
    with pytest.raises(BundleError, match="in the catalogue but not in the tree"):
        begin(CONFIG, newer, tmp_path / "mixed")

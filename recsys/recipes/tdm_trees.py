"""The trees of a TDM's fit: the first one, that of an earlier run, and those learned anew between rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.bundle.component import component_directory
from recsys.bundle.manifest import FEATURES_FOLDER
from recsys.data.catalogue import Catalogue
from recsys.features.feature_set import FeatureSet
from recsys.index.item_tree import ItemTree
from recsys.index.node_attention import NodeAttention
from recsys.index.tree_assignment import relearned
from recsys.index.tree_building import at_random, by_two_means, in_order
from recsys.index.tree_growth import grown
from recsys.models.tdm import Tdm
from recsys.models.two_tower import TwoTower
from recsys.recipes.tdm_config import TdmConfig
from recsys.retrieval.tree_channel import TREE
from recsys.train.export import item_vectors
from recsys.train.ranks import Ranks
from recsys.train.tree_likelihoods import PrefixLikelihoods
from recsys.train.view import TrainView
from recsys.train.warm_start import WEIGHTS, start_from


@dataclass(frozen=True, slots=True)
class Begun:
    """What a fit begins with.

    Attributes:
        model: on the CPU.
        metrics: what was taken over of an earlier run's tree; empty where there is none.
    """

    model: Tdm
    metrics: dict[str, float]


def started_towers(users: TwoTower, config: TdmConfig, view: TrainView) -> dict[str, float]:
    """Puts in the towers of the run to start from, where there is one; says what was taken over.

    Raises:
        BundleError: when a file of the earlier run is missing or damaged.
        ConfigError: when its model had another shape.
        FeatureMismatchError: when it knew none of these items.
    """
    if view.start is None:
        return {}
    weights = component_directory(view.start, Tdm.name) / WEIGHTS
    features = FeatureSet.open(view.start / FEATURES_FOLDER)
    taken = start_from(users, view.features, weights, features, config.warm_start.new_rows, Tdm.name)
    return {"started_items": float(taken.items - taken.new_items), "new_items": float(taken.new_items)}


def begun(users: TwoTower, config: TdmConfig, view: TrainView) -> Begun:
    """A model with towers and a tree over the view's catalogue, that of the run to start from where there is one.

    Raises:
        BundleError: when a file of the earlier run is missing or damaged.
    """
    torch.manual_seed(view.seed)
    if view.start is not None:
        return _gone_on(users, config, view, view.start)
    tree = first_tree(users, config, view)
    return Begun(_model(users, tree, config), {})


def _model(users: TwoTower, tree: ItemTree, config: TdmConfig) -> Tdm:
    """With attention over no more behaviours than a window of training has: weights of others would not be learned."""
    return Tdm(users, tree, min(config.attended, users.shape.history_length), config.cap)


def first_tree(users: TwoTower, config: TdmConfig, view: TrainView) -> ItemTree:
    """By the towers' vectors; or before anything is learned: by kind, then by what is counted, or at random."""
    if config.tree == "vectors":
        vectors = item_vectors(users.eval())[:, : config.dim]
        return _leaders(lambda: by_two_means(vectors, config.slack, view.seed), view.ranks, len(vectors))
    fields = [field for field in view.features.fields("item") if field.kind != "id"]
    if config.tree == "random" or not fields:
        return at_random(len(view.catalogue), view.seed, config.slack)
    fields.sort(key=lambda field: field.kind == "numeric")
    columns = [np.asarray(view.items[field.name]).reshape(len(view.catalogue), -1) for field in fields]
    keys = np.concatenate(columns, axis=1)  # the first of a list of values before its second
    return in_order(np.lexsort(keys.T[::-1]).astype(np.int32), config.slack)


def learn_anew(model: Tdm, config: TdmConfig, view: TrainView) -> None:
    """Puts the tree after a round, with as many leaves, into the model; the same on every worker."""
    if config.relearning == "none":
        return
    by_likelihood = config.relearning == "likelihood"
    relearn = _by_likelihood if by_likelihood else _by_clusters
    tree = model.tree.held
    learned = _leaders(lambda: relearn(model, tree, config, view), view.ranks, len(tree))
    model.set_tree(learned, keep_inner=by_likelihood)


def _by_likelihood(model: Tdm, tree: ItemTree, config: TdmConfig, view: TrainView) -> ItemTree:
    users = {field.name: view.users[field.name] for field in model.users.shape.user_fields}
    return relearned(tree, PrefixLikelihoods(model, view.train, users, config.likelihood_samples, view.seed))


def _by_clusters(model: Tdm, tree: ItemTree, config: TdmConfig, view: TrainView) -> ItemTree:
    return by_two_means(item_vectors(model.users.eval())[:, : config.dim], seed=view.seed, slots=tree.slots)


def _gone_on(users: TwoTower, config: TdmConfig, view: TrainView, start: Path) -> Begun:
    """The model of an earlier run, over a catalogue that may have changed.

    An item that both catalogues have keeps its leaf; that of one that is gone becomes vacant; one that is new gets a
    vacant leaf among items like it. Where there are too few, or none is to be kept, the tree is built anew, by clusters
    of the items' vectors, and its inner nodes are the means of their leaves; else these are what they were. Attention
    is, either way.
    """
    directory = component_directory(start, Tdm.name)
    earlier, moved = _earlier(directory / TREE, Catalogue.open(start), view.catalogue)
    new = int(np.count_nonzero(moved.leaves < 0))
    vectors = item_vectors(users.eval())[:, : config.dim]
    kept = config.warm_tree == "kept" and new <= moved.vacancies
    grow = (lambda: grown(moved, vectors)) if kept else (lambda: by_two_means(vectors, config.slack, view.seed))
    tree = _leaders(grow, view.ranks, len(moved))
    model = _model(users, tree, config)
    _take_over(model, earlier, inner=kept)
    known = len(moved) - new
    metrics = {
        "kept_leaves": known if kept else 0,
        "inserted_items": new if kept else 0,
        "removed_items": len(earlier.tree) - known,
    }
    return Begun(model, {name: float(count) for name, count in metrics.items()})


def _leaders(make: Callable[[], ItemTree], ranks: Ranks, count: int) -> ItemTree:
    """The tree over `count` rows that rank 0 makes, on every worker; another processor may round to another one."""
    if ranks.world == 1:
        return make()
    rows = torch.from_numpy(make().rows) if ranks.leads else torch.empty(0, dtype=torch.int32)
    return ItemTree(ranks.concatenated(rows).numpy(), count)


def _earlier(directory: Path, known: Catalogue, now: Catalogue) -> tuple[NodeAttention, ItemTree]:
    """An earlier run's nodes and attention, memory-mapped, and its tree over the rows of the present catalogue.

    Args:
        directory: of its tree.
        known: its catalogue.
        now: the present one.
    """
    tree = ItemTree.open(directory)
    tree.check_holds(known.ids)
    return NodeAttention.open(directory, tree), tree.renumbered(now.rows_of(known.ids), len(now))


@torch.no_grad()
def _take_over(model: Tdm, earlier: NodeAttention, *, inner: bool) -> None:
    """Puts an earlier run's attention into a model on the CPU, and its inner nodes.

    Ages that are new count as the oldest that was known.
    """
    attention = model.attention
    ages = np.arange(attention.attended).clip(max=earlier.attended - 1)
    np.copyto(attention.key.numpy(), earlier.keys)
    np.copyto(attention.value.numpy(), earlier.values)
    np.copyto(attention.age_weight.numpy(), earlier.age_weight[ages])
    if inner:
        np.copyto(model.inner.weight.numpy(), earlier.nodes[: model.tree.inner])

"""A bundle of any size for benchmarks: real towers and their real exports, with weights made up instead of trained.

Items lie in clusters, as trained ones do, and a user's history comes from a few of them; an index is
tuned to its recall on vectors of such users, as training would, and a tree clusters the items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import polars as pl
from pydantic import JsonValue

import recsys
from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.bundle.manifest import FEATURES_FOLDER, USERS_FOLDER, DatasetReference, Manifest, SplitReference
from recsys.bundle.publish import assemble, publish
from recsys.bundle.users import write_users
from recsys.columns import ITEM_ID, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import Interactions
from recsys.errors import MissingPartError
from recsys.features.definition import (
    CategoricalFeature,
    FeatureDefinition,
    HistoryFeature,
    IdFeature,
)
from recsys.features.feature_set import FeatureSet, Field
from recsys.features.online import OnlineEncoder
from recsys.index.config import IndexConfig, IndexReport
from recsys.index.tree_building import by_two_means
from recsys.index.vector_index import VectorIndex
from recsys.recipes.tdm_quality import Asked, BeamQuality, beam_quality
from recsys.retrieval.tree_channel import TREE
from recsys.retrieval.user_tower import HISTORY_VECTORS, TOWER
from recsys.retrieval.vector_channel import INDEX
from recsys.types import Floats, RaggedRows, Users, offsets_of

if TYPE_CHECKING:
    from torch import Tensor

    from recsys.models.retriever import Retriever

Tower: TypeAlias = Literal["mean", "attention", "mind", "tdm"]
Report: TypeAlias = IndexReport | BeamQuality
"""What a channel finds of what exact search would: of an index, or of a beam down a tree."""

CHANNELS: Final[dict[Tower, str]] = {"mean": "two_tower", "attention": "two_tower", "mind": "mind", "tdm": "tdm"}
"""What the channel over a tower is called."""
_TYPES: Final[dict[Tower, str]] = {"mean": "vector", "attention": "vector", "mind": "interests", "tdm": "tree"}
INTERESTS: Final = 4
HISTORY_LENGTH: Final = 200
USERS: Final = 2_000
_ITEMS_A_CLUSTER: Final = 250
_SPREAD: Final = 0.5
"""Length of an item's distance from its cluster's centre, which has length 1."""
_CLUSTERS_A_USER: Final = 3
_LENGTH: Final = 4.0
"""Of an item's vector in the tower: more than untrained blocks add, so that users stay near items as if trained."""
_MEANS_SHARE: Final = 0.02
"""What the means of the history add to an interest, beside its capsule."""
_TUNED_ON: Final = 500
_EVERY_LEAF_FOR: Final = 20
"""Users for whom a beam is compared with brute force over the tree."""


@dataclass(frozen=True, slots=True)
class SyntheticShape:
    """What to make: items, width of the vectors, the user towers, each with a channel and its index or tree."""

    items: int
    dim: int
    towers: tuple[Tower, ...]
    seed: int = 0

    @property
    def name(self) -> str:
        """Names the folder it is kept in."""
        return f"{self.items}x{self.dim}-{'-'.join(self.towers)}"


def write_synthetic_bundle(bundles: Path, work: Path, shape: SyntheticShape) -> tuple[Path, dict[str, Report]]:
    """Makes and publishes the bundle.

    Args:
        bundles: folder of versions.
        work: an empty folder.
        shape: what to make.

    Returns:
        The bundle's folder and what each channel was measured to find.

    Raises:
        MissingPartError: torch is not installed.
    """
    rng = np.random.default_rng(shape.seed)
    frame = pl.DataFrame({ITEM_ID: np.arange(1, shape.items + 1)})
    catalogue = Catalogue(frame)
    cluster = np.sort(rng.integers(0, max(1, shape.items // _ITEMS_A_CLUSTER), shape.items))
    interactions = _histories(cluster, rng)
    users = pl.DataFrame({USER_ID: interactions.user_ids, "country": interactions.user_ids % 20})
    features = FeatureSet.fit(
        _definition(), items=frame, users=users, events=frame.with_columns(pl.lit(1).alias(USER_ID))
    )
    encoder = OnlineEncoder(features, catalogue)
    world = _World(features, encoder, _vectors(cluster, shape.dim, rng), interactions)
    reports, components = {}, []
    for tower in shape.towers:
        name = CHANNELS[tower]
        folder = component_directory(work, name)
        folder.mkdir(parents=True)
        write = _write_tree if tower == "tdm" else _write_index
        reports[name], options = write(folder, _untrained(shape, tower, world), world)
        info = ComponentInfo(
            name=name,
            kind="channel",
            type=_TYPES[tower],
            feature_set_hash=features.hash,
            catalogue_hash=catalogue.hash,
            options=options,
        )
        components.append(write_component(work, info))

    def write_content(folder: Path) -> None:
        catalogue.save(folder)
        features.save(folder / FEATURES_FOLDER)
        write_users(folder / USERS_FOLDER, interactions=interactions, catalogue=catalogue, users=users)

    manifest = Manifest(
        version="unnamed",
        created="",
        package_version=recsys.__version__,
        feature_set_hash=features.hash,
        catalogue_hash=catalogue.hash,
        dataset=DatasetReference(name=f"synthetic-{shape.name}", content_hash=catalogue.hash),
        split=SplitReference(holdout="none"),
        files={},
    )
    path = assemble(bundles, manifest, components, write_content)
    publish(bundles, path.name)
    return path, reports


@dataclass(frozen=True, slots=True, eq=False)
class _World:
    """What the towers are made over: items with their vectors, and users with their histories."""

    features: FeatureSet
    encoder: OnlineEncoder
    vectors: Floats
    interactions: Interactions

    @property
    def item_codes(self) -> int:
        """Of the history."""
        assert self.features.history is not None
        return self.features.history.cardinality

    @property
    def user_fields(self) -> tuple[Field, ...]:
        """Attributes of the user."""
        return tuple(field for field in self.features.fields("user") if field.kind == "categorical")

    def some_users(self) -> Users:
        """Those on whom the indexes are tuned."""
        ids = self.interactions.user_ids[:_TUNED_ON]
        history = RaggedRows.of([self.interactions.of(user) for user in range(len(ids))])
        return Users(ids, np.ones(len(ids), np.bool_), {"country": (ids % 20).tolist()}, history, history)


def _definition() -> FeatureDefinition:
    country = CategoricalFeature(name="country", side="user")
    return FeatureDefinition(features=(IdFeature(side="item"), country, HistoryFeature(length=HISTORY_LENGTH)))


def _vectors(cluster: np.ndarray[tuple[int], np.dtype[np.int64]], dim: int, rng: np.random.Generator) -> Floats:
    """(N, d) vectors around the centres of their clusters."""
    centres = _unit(rng.standard_normal((int(cluster.max()) + 1, dim), np.float32))
    noise = _unit(rng.standard_normal((len(cluster), dim), np.float32))
    return _unit(centres[cluster] + _SPREAD * noise)


def _unit(vectors: Floats) -> Floats:
    scaled: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def _histories(cluster: np.ndarray[tuple[int], np.dtype[np.int64]], rng: np.random.Generator) -> Interactions:
    """Users with 50 to 200 items each, out of a few clusters."""
    starts = np.searchsorted(cluster, np.arange(int(cluster.max()) + 2))
    lengths = rng.integers(50, HISTORY_LENGTH + 1, USERS)
    offsets = offsets_of(lengths)
    mine = rng.integers(0, len(starts) - 1, (USERS, _CLUSTERS_A_USER))
    user = np.repeat(np.arange(USERS), lengths)
    chosen = mine[user, rng.integers(0, _CLUSTERS_A_USER, len(user))]
    low, high = starts[chosen], np.maximum(starts[chosen + 1], starts[chosen] + 1)
    rows = np.minimum(rng.integers(low, high), len(cluster) - 1).astype(np.int32)
    times = np.arange(len(rows), dtype=np.int64) * 1000
    return Interactions(np.arange(1, USERS + 1), offsets, rows, times)


def _write_index(folder: Path, model: Retriever, world: _World) -> tuple[Report, dict[str, JsonValue]]:
    """Writes a channel of one vector a user or several; how well its index does, and the component's options."""
    from recsys.train.export import item_vectors

    queries = _write_tower(folder, model, world, world.some_users())
    queries = queries.reshape(-1, queries.shape[-1])
    index, report = VectorIndex.build(item_vectors(model), IndexConfig(metric="cosine"), queries)
    index.save(folder / INDEX)
    return report, {} if model.interests is None else {"interests": model.interests}


def _write_tree(folder: Path, model: Retriever, world: _World) -> tuple[Report, dict[str, JsonValue]]:
    """Writes a channel over a tree of the items' clusters, inner nodes their means; as `_write_index`."""
    from recsys.models.tdm import Tdm
    from recsys.models.two_tower import TwoTower
    from recsys.recipes.tdm_config import TdmConfig
    from recsys.train.export import item_vectors, node_attention

    assert isinstance(model, TwoTower)
    config = TdmConfig.model_validate({})
    users = world.some_users().slice(0, _EVERY_LEAF_FOR)
    queries = _write_tower(folder, model, world, users)
    tree = by_two_means(item_vectors(model), config.slack)
    tree.save(folder / TREE)
    attention = node_attention(Tdm(model, tree, config.attended, config.cap))
    attention.save(folder / TREE)
    newest = users.history.values[users.history.offsets[1:] - 1]
    qualities = beam_quality(attention, Asked(users, queries, newest), config.beam)
    return next(one for one in qualities if one.beam >= config.beam), {"beam": config.beam}


def _write_tower(folder: Path, model: Retriever, world: _World, users: Users) -> Floats:
    """Writes the tower's files; (B, [K,] d) vectors of some users."""
    from recsys.train.export import export_user_tower, user_vectors, write_history_vectors

    export_user_tower(model, folder / TOWER)
    write_history_vectors(model, folder / HISTORY_VECTORS)
    return user_vectors(model, world.encoder.encode_users(users, trim=True))


def _untrained(shape: SyntheticShape, tower: Tower, world: _World) -> Retriever:
    """The recipe's model; the item table holds the given vectors, and users stay near their items."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingPartError(
            f"a synthetic bundle needs {error.name}: pip install 'recsys[train]', or give --bundles"
        ) from None
    torch.manual_seed(shape.seed)
    index = torch.from_numpy(world.encoder.item_index)
    model = _mind(shape, world, index) if tower == "mind" else _two_tower(shape, tower, world, index)
    assert model.items.table is not None
    with torch.no_grad():
        model.items.table.weight[index.long()] = torch.from_numpy(_LENGTH * world.vectors)
    return model.eval()


def _two_tower(shape: SyntheticShape, tower: Tower, world: _World, index: Tensor) -> Retriever:
    from recsys.models.two_tower import TwoTower, TwoTowerShape

    towers = TwoTowerShape(
        item_codes=world.item_codes,
        user_fields=world.user_fields,
        dim=shape.dim,
        history="mean" if tower == "mean" else "attention+recency",
        history_length=HISTORY_LENGTH,
        similarity="cosine",
    )
    return TwoTower(towers, index, {})


def _mind(shape: SyntheticShape, world: _World, index: Tensor) -> Retriever:
    """A start's interests are all alike, made of the means of the history; here each is its capsule and a little."""
    import torch

    from recsys.models.mind import Mind, MindShape

    mind = MindShape(
        item_codes=world.item_codes,
        user_fields=world.user_fields,
        dim=shape.dim,
        history_length=HISTORY_LENGTH,
        similarity="cosine",
        interests=INTERESTS,
    )
    model = Mind(mind, index, {})
    with torch.no_grad():
        model.capsules.shared.weight.copy_(torch.eye(shape.dim))
        next(model.mixer.other_direct.parameters()).copy_(torch.eye(shape.dim))
        model.mixer.direct.weight.mul_(_MEANS_SHARE / _LENGTH)
    return model

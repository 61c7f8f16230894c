"""A bundle of any size for benchmarks: the real two-tower and its real export, with weights made up instead of trained.

Items lie in clusters, as trained ones do, and a user's history comes from a few of them; the index is
tuned to its recall on vectors of such users, as training would.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import polars as pl

import recsys
from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.bundle.manifest import FEATURES_FOLDER, USERS_FOLDER, DatasetReference, Manifest, SplitReference
from recsys.bundle.publish import assemble, publish
from recsys.bundle.users import write_users
from recsys.columns import ITEM_ID, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import Interactions
from recsys.errors import MissingPartError
from recsys.features.definition import CategoricalFeature, FeatureDefinition, HistoryFeature, IdFeature
from recsys.features.feature_set import FeatureSet
from recsys.features.online import OnlineEncoder
from recsys.index.config import IndexConfig, IndexReport
from recsys.index.vector_index import VectorIndex
from recsys.retrieval.user_tower import HISTORY_VECTORS, TOWER
from recsys.retrieval.vector_channel import INDEX
from recsys.types import Floats, offsets_of

if TYPE_CHECKING:
    from recsys.models.two_tower import TwoTower

CHANNEL: Final = "two_tower"
HISTORY_LENGTH: Final = 200
USERS: Final = 2_000
_ITEMS_A_CLUSTER: Final = 250
_SPREAD: Final = 0.5
"""Length of an item's distance from its cluster's centre, which has length 1."""
_CLUSTERS_A_USER: Final = 3
_LENGTH: Final = 4.0
"""Of an item's vector in the tower: more than untrained blocks add, so that users stay near items as if trained."""
_TUNED_ON: Final = 500


@dataclass(frozen=True, slots=True)
class SyntheticShape:
    """What to make: items, width of the vectors, how the user tower encodes the history."""

    items: int
    dim: int
    tower: Literal["mean", "attention"]
    seed: int = 0

    @property
    def name(self) -> str:
        """Names the folder it is kept in."""
        return f"{self.items}x{self.dim}-{self.tower}"


def write_synthetic_bundle(bundles: Path, work: Path, shape: SyntheticShape) -> tuple[Path, IndexReport]:
    """Makes and publishes the bundle.

    Args:
        bundles: folder of versions.
        work: an empty folder.
        shape: what to make.

    Returns:
        The bundle's folder and what its index was measured to be.

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
    report = _write_two_tower(work, shape, features, encoder, _vectors(cluster, shape.dim, rng), interactions)
    info = ComponentInfo(
        name=CHANNEL, kind="channel", type="vector", feature_set_hash=features.hash, catalogue_hash=catalogue.hash
    )
    component = write_component(work, info)

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
    path = assemble(bundles, manifest, [component], write_content)
    publish(bundles, path.name)
    return path, report


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


def _write_two_tower(
    work: Path,
    shape: SyntheticShape,
    features: FeatureSet,
    encoder: OnlineEncoder,
    vectors: Floats,
    interactions: Interactions,
) -> IndexReport:
    try:
        from recsys.train.export import export_user_tower, item_vectors, write_history_vectors
    except ModuleNotFoundError as error:
        raise MissingPartError(
            f"a synthetic bundle needs {error.name}: pip install 'recsys[train]', or give --bundles"
        ) from None
    model = _untrained(shape, features, encoder, vectors)
    directory = component_directory(work, CHANNEL)
    directory.mkdir(parents=True)
    export_user_tower(model, directory / TOWER)
    write_history_vectors(model, directory / HISTORY_VECTORS)
    index, report = VectorIndex.build(
        item_vectors(model), IndexConfig(metric="cosine"), _queries(model, encoder, interactions)
    )
    index.save(directory / INDEX)
    return report


def _untrained(shape: SyntheticShape, features: FeatureSet, encoder: OnlineEncoder, vectors: Floats) -> TwoTower:
    """The recipe's model; the item table holds the given vectors."""
    import torch

    from recsys.models.two_tower import TwoTower, TwoTowerShape

    assert features.history is not None
    torch.manual_seed(shape.seed)
    towers = TwoTowerShape(
        item_codes=features.history.cardinality,
        user_fields=tuple(field for field in features.fields("user") if field.kind == "categorical"),
        dim=shape.dim,
        history=shape.tower,
        history_length=HISTORY_LENGTH,
        similarity="cosine",
    )
    model = TwoTower(towers, torch.from_numpy(encoder.item_index), {})
    assert model.items.table is not None
    with torch.no_grad():
        model.items.table.weight[torch.from_numpy(encoder.item_index).long()] = torch.from_numpy(_LENGTH * vectors)
    return model.eval()


def _queries(model: TwoTower, encoder: OnlineEncoder, interactions: Interactions) -> Floats:
    """Vectors of some users, on which the index is tuned."""
    from recsys.train.export import user_vectors
    from recsys.types import RaggedRows, Users

    count = min(_TUNED_ON, len(interactions))
    history = RaggedRows.of([interactions.of(user) for user in range(count)])
    users = Users(
        interactions.user_ids[:count],
        np.ones(count, np.bool_),
        {"country": (interactions.user_ids[:count] % 20).tolist()},
        history,
        history,
    )
    return user_vectors(model, encoder.encode_users(users, trim=True))

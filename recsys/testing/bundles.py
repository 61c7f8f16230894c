"""A bundle over the toy dataset, written without any training, whose answers a person can work out.

popularity   how many users took the item
item_knn     the films before and after an item in the catalogue are its neighbours, similarity 1
two_tower    item i is e_i + e_(i+1) / 2 (unit vectors, around the end); a user is the mean of the history
two_tower_scorer   the pre-ranker: scores of two_tower
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper
from pydantic import JsonValue

import recsys
from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.bundle.manifest import (
    FEATURES_FOLDER,
    USERS_FOLDER,
    DatasetReference,
    Manifest,
    SplitReference,
)
from recsys.bundle.publish import assemble
from recsys.bundle.users import write_users
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.interactions import Interactions, positives
from recsys.features.definition import FeatureDefinition, HistoryFeature
from recsys.features.feature_set import FeatureSet
from recsys.features.online import OnlineEncoder
from recsys.index.vector_index import VectorIndex
from recsys.retrieval.neighbour_channel import NeighbourChannel
from recsys.retrieval.static_channel import StaticChannel
from recsys.retrieval.user_tower import HISTORY_VECTORS, TOWER
from recsys.retrieval.vector_channel import INDEX
from recsys.types import Floats, RaggedRows

HISTORY_LENGTH: Final = 50
FIRST_ITEM_CODE: Final = 2


def write_toy_bundle(
    bundles: Path,
    dataset: Dataset,
    work: Path,
    *,
    popularity_weight: float = 1.0,
    vectors: Floats | None = None,
) -> Path:
    """Assembles a bundle from the toy dataset, or any other one.

    Args:
        bundles: folder of versions.
        dataset: where items, users and histories come from.
        work: an empty folder for what recipes would have left.
        popularity_weight: what popularity counts are multiplied by, to tell two bundles apart.
        vectors: (N, d) of the items, in place of those above.

    Returns:
        The bundle's folder; publishing it is the caller's.
    """
    catalogue = Catalogue.from_dataset(dataset)
    interactions = Interactions.from_events(dataset.events(), catalogue)
    definition = FeatureDefinition(features=(HistoryFeature(length=HISTORY_LENGTH),))
    events = positives(dataset.events()).collect()
    features = FeatureSet.fit(definition, items=dataset.items(), users=dataset.users(), events=events)
    encoder = OnlineEncoder(features, catalogue)
    counts = np.bincount(interactions.rows, minlength=len(catalogue)) * popularity_weight
    _write_static(work, counts.astype(np.float32))
    _write_neighbours(work, len(catalogue))
    _write_tower(work, encoder, _ring_vectors(len(catalogue)) if vectors is None else vectors)
    infos = [
        _info("popularity", "channel", "static", features, catalogue),
        _info("item_knn", "channel", "neighbours", features, catalogue),
        _info("two_tower", "channel", "vector", features, catalogue),
        _info("two_tower_scorer", "scorer", "vector_scorer", features, catalogue, {"channel": "two_tower"}),
    ]
    components = [write_component(work, info) for info in infos]

    def write_content(folder: Path) -> None:
        catalogue.save(folder)
        features.save(folder / FEATURES_FOLDER)
        write_users(folder / USERS_FOLDER, interactions=interactions, catalogue=catalogue, users=dataset.users())

    return assemble(bundles, _manifest(dataset, features, catalogue), components, write_content)


def write_mean_tower(path: Path, dim: int) -> None:
    """An ONNX user tower: the mean of the history's vectors, zero without history.

    Inputs history_vectors (B, L, dim) float32 and history_age (B, L) int64, 0 = padding; output
    user_vector (B, dim).
    """
    axis, zero, last = (
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("axis", 1), ("zero", 0), ("last", -1))
    )
    least = helper.make_tensor("least", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Greater", ["history_age", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["columns"]),
        helper.make_node("Mul", ["history_vectors", "columns"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "axis"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "least"], ["divisor"]),
        helper.make_node("Div", ["total", "divisor"], ["user_vector"]),
    ]
    inputs = [
        helper.make_tensor_value_info("history_vectors", TensorProto.FLOAT, ["B", "L", dim]),
        helper.make_tensor_value_info("history_age", TensorProto.INT64, ["B", "L"]),
    ]
    outputs = [helper.make_tensor_value_info("user_vector", TensorProto.FLOAT, ["B", dim])]
    graph = helper.make_graph(nodes, "mean_tower", inputs, outputs, initializer=[axis, zero, last, least])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _ring_vectors(count: int) -> Floats:
    """(N, N): row i has 1 at i and 1/2 at i + 1, around the end."""
    eye = np.eye(count, dtype=np.float32)
    return eye + 0.5 * np.roll(eye, 1, axis=1)


def _write_static(work: Path, counts: Floats) -> None:
    directory = component_directory(work, "popularity")
    directory.mkdir(parents=True)
    StaticChannel.save(directory, counts)


def _write_neighbours(work: Path, count: int) -> None:
    directory = component_directory(work, "item_knn")
    directory.mkdir(parents=True)
    lists = RaggedRows.of([[row for row in (i - 1, i + 1) if 0 <= row < count] for i in range(count)])
    NeighbourChannel.save(directory, lists, np.ones(len(lists.values), np.float32))


def _write_tower(work: Path, encoder: OnlineEncoder, vectors: Floats) -> None:
    directory = component_directory(work, "two_tower")
    directory.mkdir(parents=True)
    index, _ = VectorIndex.build(vectors)
    index.save(directory / INDEX)
    table = np.zeros((encoder.features.items.cardinality, vectors.shape[1]), np.float32)
    table[encoder.item_index] = vectors
    table[:FIRST_ITEM_CODE] = 0
    np.save(directory / HISTORY_VECTORS, table, allow_pickle=False)
    write_mean_tower(directory / TOWER, vectors.shape[1])


def _info(
    name: str,
    kind: Literal["channel", "scorer"],
    opener: str,
    features: FeatureSet,
    catalogue: Catalogue,
    options: dict[str, JsonValue] | None = None,
) -> ComponentInfo:
    return ComponentInfo(
        name=name,
        kind=kind,
        type=opener,
        feature_set_hash=features.hash,
        catalogue_hash=catalogue.hash,
        options=options or {},
    )


def _manifest(dataset: Dataset, features: FeatureSet, catalogue: Catalogue) -> Manifest:
    return Manifest(
        version="unnamed",
        created="",
        package_version=recsys.__version__,
        feature_set_hash=features.hash,
        catalogue_hash=catalogue.hash,
        dataset=DatasetReference(
            name=dataset.info.name, content_hash=dataset.info.content_hash, user_ids=dataset.info.user_ids
        ),
        split=SplitReference(holdout="none"),
        files={},
    )

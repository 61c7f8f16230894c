"""A catalogue of forty films with a feature set and an encoder, for every test of retrieval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.catalogue import Catalogue
from recsys.features.definition import FeatureDefinition, HistoryFeature, IdFeature
from recsys.features.feature_set import FeatureSet
from recsys.features.online import OnlineEncoder
from recsys.index.config import IndexConfig
from recsys.index.vector_index import VectorIndex
from recsys.retrieval.vector_channel import VectorChannel
from recsys.testing.towers import write_mean_tower, write_newest_tower
from recsys.types import Floats

SIZE, DIM = 40, 6


@pytest.fixture(scope="session")
def films() -> Catalogue:
    """Items 100…139."""
    return Catalogue(pl.DataFrame({"item_id": np.arange(100, 100 + SIZE)}))


@pytest.fixture(scope="session")
def film_encoder(films: Catalogue) -> OnlineEncoder:
    """History of the newest 8 items; every film but the last two was seen in training."""
    events = pl.DataFrame({"item_id": films.ids[: SIZE - 2], "user_id": np.arange(SIZE - 2)})
    definition = FeatureDefinition(features=(IdFeature(side="item"), HistoryFeature(length=8)))
    features = FeatureSet.fit(definition, items=films.frame, users=pl.DataFrame({"user_id": [1]}), events=events)
    return OnlineEncoder(features, films)


@pytest.fixture(scope="session")
def film_vectors() -> Floats:
    """(SIZE, DIM) vector of every catalogue row."""
    return np.random.default_rng(5).standard_normal((SIZE, DIM), dtype=np.float32)


@pytest.fixture(scope="session")
def history_vectors(film_encoder: OnlineEncoder, film_vectors: Floats) -> Floats:
    """The history table: a seen item has its film's vector, padding zeros, an unseen item ones."""
    table = np.zeros((film_encoder.item_index.max() + 1, DIM), np.float32)
    table[film_encoder.item_index] = film_vectors
    table[1] = 1.0
    return table


@pytest.fixture
def write_component(tmp_path: Path, film_vectors: Floats, history_vectors: Floats) -> Callable[..., Path]:
    """Writes the files of a channel whose tower is the mean of the history, or its newest items as interests."""

    def write(interests: int = 0, **index: object) -> Path:
        config = IndexConfig.model_validate({"device": "cpu", **index})
        VectorIndex.build(film_vectors, config)[0].save(tmp_path / "index")
        np.save(tmp_path / "history_vectors.npy", history_vectors)
        if interests:
            write_newest_tower(tmp_path / "user_tower.onnx", DIM, interests)
        else:
            write_mean_tower(tmp_path / "user_tower.onnx", DIM)
        return tmp_path

    return write


@pytest.fixture
def film_channel(write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder) -> VectorChannel:
    return VectorChannel.open("two_tower", write_component(), {"device": "cpu"}, films, film_encoder)

"""How fast encoding is: `pytest -m bench tests/bench/test_bench_features.py`; sizes as in a large shop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from recsys.data.catalogue import Catalogue
from recsys.features.definition import (
    CategoricalFeature,
    FeatureDefinition,
    HistoryFeature,
    IdFeature,
    ListFeature,
    NumericFeature,
    OverlapFeature,
)
from recsys.features.feature_set import FeatureSet
from recsys.features.offline import encode_histories, encode_items
from recsys.features.online import OnlineEncoder
from recsys.types import Candidates, RaggedRows, Users

ITEMS, USERS, EVENTS = 1_000_000, 100_000, 5_000_000
HISTORY, CANDIDATES, BATCH = 200, 500, 1_000
GENRES = np.array([f"genre {i}" for i in range(30)])

DEFINITION = FeatureDefinition(
    features=(
        IdFeature(side="item"),
        CategoricalFeature(name="brand", side="item"),
        CategoricalFeature(name="category", side="item"),
        ListFeature(name="genres", side="item", length=3),
        NumericFeature(name="price", side="item"),
        CategoricalFeature(name="gender", side="user"),
        CategoricalFeature(name="age", side="user"),
        CategoricalFeature(name="occupation", side="user"),
        HistoryFeature(length=HISTORY),
        OverlapFeature(name="same_genre", source="genres"),
    )
)

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "item_id": np.arange(ITEMS) * 7919 + 3,
            "brand": [f"brand {i}" for i in rng.zipf(1.3, ITEMS) % 50_000],
            "category": rng.integers(0, 300, ITEMS),
            "genres": GENRES[rng.integers(0, len(GENRES), (ITEMS, 3))].tolist(),
            "price": rng.lognormal(3, 1, ITEMS),
        }
    )


@pytest.fixture(scope="module")
def users() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "user_id": np.arange(USERS),
            "gender": rng.choice(["F", "M"], USERS),
            "age": rng.integers(0, 7, USERS),
            "occupation": rng.integers(0, 21, USERS),
        }
    )


@pytest.fixture(scope="module")
def events(items: pl.DataFrame) -> pl.DataFrame:
    """Every item at least once, so that the vocabulary has a million ids."""
    rng = np.random.default_rng(2)
    rows = np.concatenate([np.arange(ITEMS), rng.integers(0, ITEMS, EVENTS - ITEMS)])
    return pl.DataFrame({"user_id": rng.integers(0, USERS, EVENTS), "item_id": items["item_id"].to_numpy()[rows]})


@pytest.fixture(scope="module")
def features(items: pl.DataFrame, users: pl.DataFrame, events: pl.DataFrame) -> FeatureSet:
    return FeatureSet.fit(DEFINITION, items=items, users=users, events=events)


@pytest.fixture(scope="module")
def encoder(features: FeatureSet, items: pl.DataFrame) -> OnlineEncoder:
    return OnlineEncoder(features, Catalogue(items))


def requests(count: int, lengths: np.ndarray) -> Users:
    rng = np.random.default_rng(3)
    rows = RaggedRows.of([rng.integers(0, ITEMS, length) for length in lengths])
    attributes = {"gender": ["M"] * count, "age": [3] * count, "occupation": [20] * count}
    return Users(np.arange(count), np.ones(count, np.bool_), attributes, rows, rows)


def test_fit_a_million_items(
    benchmark: BenchmarkFixture, items: pl.DataFrame, users: pl.DataFrame, events: pl.DataFrame
) -> None:
    fitted = benchmark.pedantic(
        FeatureSet.fit, (DEFINITION,), {"items": items, "users": users, "events": events}, rounds=3
    )
    assert len(fitted.items) == ITEMS


def test_encode_a_million_items(benchmark: BenchmarkFixture, features: FeatureSet, items: pl.DataFrame) -> None:
    codes = benchmark.pedantic(encode_items, (features, items), rounds=3)
    assert codes["genres"].shape == (ITEMS, 3)


def test_open_a_feature_set(benchmark: BenchmarkFixture, features: FeatureSet, tmp_path: Path) -> None:
    features.save(tmp_path)
    assert benchmark.pedantic(FeatureSet.open, (tmp_path,), rounds=3).hash == features.hash


def test_make_the_encoder_of_a_million_items(
    benchmark: BenchmarkFixture, features: FeatureSet, items: pl.DataFrame
) -> None:
    catalogue = Catalogue(items)
    assert len(benchmark.pedantic(OnlineEncoder, (features, catalogue), rounds=3).item_index) == ITEMS


def test_encode_one_user(benchmark: BenchmarkFixture, encoder: OnlineEncoder) -> None:
    codes = benchmark(encoder.encode_users, requests(1, np.array([HISTORY])))
    assert codes["history"].all()


def test_encode_a_batch_of_users(benchmark: BenchmarkFixture, encoder: OnlineEncoder) -> None:
    lengths = np.random.default_rng(4).integers(1, 2 * HISTORY, BATCH)
    assert benchmark(encoder.encode_users, requests(BATCH, lengths))["history"].shape == (BATCH, HISTORY)


def test_encode_a_batch_of_histories_offline(
    benchmark: BenchmarkFixture, features: FeatureSet, items: pl.DataFrame
) -> None:
    batch = requests(BATCH, np.full(BATCH, HISTORY)).history
    frame = pl.DataFrame({"history": [items["item_id"].gather(batch[b]).to_list() for b in range(BATCH)]})
    assert benchmark(encode_histories, features, frame)["history"].all()


def test_cross_one_user_with_candidates(benchmark: BenchmarkFixture, encoder: OnlineEncoder) -> None:
    rows = np.random.default_rng(5).integers(0, ITEMS, CANDIDATES).astype(np.int32)
    asked = Candidates(
        rows, np.zeros(CANDIDATES, np.float32), np.zeros(CANDIDATES, np.uint32), np.array([0, CANDIDATES])
    )
    assert benchmark(encoder.encode_cross, requests(1, np.array([HISTORY])), asked)["same_genre"].all()

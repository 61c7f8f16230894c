"""Both encoders on every user and item of MovieLens 1M, with the features that `auto` chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.catalogue import Catalogue
from recsys.data.dataset import write_dataset
from recsys.data.interactions import Interactions, attribute_columns
from recsys.features.auto import infer_definition
from recsys.features.definition import FeatureDefinition, OverlapFeature
from recsys.features.feature_set import FeatureSet
from recsys.features.offline import encode_cross, encode_histories, encode_items, encode_users
from recsys.features.online import OnlineEncoder
from recsys.types import Candidates, Users, offsets_of

CROSSED_USERS, CANDIDATES = 100, 50


@pytest.mark.data
def test_movielens_is_encoded_alike(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ml-1m"
    dataset = write_dataset(
        tmp_path / "data",
        events=pl.scan_parquet(folder / "interactions.parquet").select(
            user_id="user", item_id="item", timestamp_ms="position"
        ),
        items=pl.read_parquet(folder / "items.parquet").rename({"item": "item_id"}),
        users=pl.read_parquet(folder / "users.parquet").rename({"user": "user_id"}),
        name="ml-1m",
        time="order",
    )
    inferred = infer_definition(dataset)
    assert {f.name for f in inferred.features} == {
        "item_id", "year", "genres", "gender", "age", "occupation", "history"
    }  # fmt: skip
    definition = FeatureDefinition(features=(*inferred.features, OverlapFeature(name="same_genre", source="genres")))
    catalogue = Catalogue.from_dataset(dataset)
    features = FeatureSet.fit(
        definition, items=dataset.items(), users=dataset.users(), events=dataset.events().collect()
    )
    encoder = OnlineEncoder(features, catalogue)
    histories = Interactions.from_events(dataset.events(), catalogue)
    users = Users(
        histories.user_ids,
        np.ones(len(histories), np.bool_),
        attribute_columns(dataset.users(), histories.user_ids),
        histories.ragged(),
        histories.ragged(),
    )
    ids = pl.DataFrame({"history": [catalogue.ids[histories.of(u)] for u in range(len(histories))]})
    offline = encode_users(features, dataset.users()) | encode_histories(features, ids)
    for name, codes in encoder.encode_users(users).items():
        np.testing.assert_array_equal(codes, offline[name], strict=True)
    for name, codes in encode_items(features, dataset.items()).items():
        np.testing.assert_array_equal(encoder.items[name], codes, strict=True)

    rows = np.random.default_rng(0).integers(0, len(catalogue), (CROSSED_USERS, CANDIDATES)).astype(np.int32)
    asked = Candidates(
        rows.ravel(),
        np.zeros(rows.size, np.float32),
        np.zeros(rows.size, np.uint32),
        offsets_of([CANDIDATES] * CROSSED_USERS),
    )
    pairs = ids.head(CROSSED_USERS).with_columns(candidates=pl.Series(list(catalogue.ids[rows])))
    np.testing.assert_array_equal(
        encoder.encode_cross(users.slice(0, CROSSED_USERS), asked)["same_genre"],
        encode_cross(features, pairs, dataset.items())["same_genre"],
        strict=True,
    )

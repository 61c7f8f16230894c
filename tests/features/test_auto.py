import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from recsys.data.dataset import Dataset, write_dataset
from recsys.features.auto import Decision, infer_definition, infer_features
from recsys.features.definition import CategoricalFeature, HistoryFeature, IdFeature, ListFeature, NumericFeature
from recsys.features.feature_set import FeatureSet
from recsys.testing.toy import write_toy

N = 200
START = dt.datetime(2024, 1, 1)
START_MS = 1_704_067_200_000
DAY = dt.timedelta(days=1)

ITEMS = pl.DataFrame(
    {
        "item_id": range(N),
        "title": [f"Film {i}" for i in range(N)],
        "genres": [[f"g{i % 7}", f"g{i % 3}"] for i in range(N)],
        "embedding": [[i / 7, 0.5] for i in range(N)],
        "brand": [f"b{i % 50}" for i in range(N)],
        "price": [1.25 * (i % 90) for i in range(N)],
        "grade": [float(i % 4) if i % 9 else None for i in range(N)],
        "adult": [i % 5 == 0 for i in range(N)],
        "country": ["fr"] * N,
        "imdb_id": range(1000, 1000 + N),
        "sku": [f"sku-{i}" for i in range(N)],
        "plot": [f"A long story about number {i} and more" for i in range(N)],
        "launched": [START_MS - 86_400_000 * (i % 90) for i in range(N)],
        "created_ms": [START_MS - 1000 * i for i in range(N)],
        "last_sold": [START + DAY * (i % 9) for i in range(N)],
        "restocked": [START_MS + 86_400_000 * (i % 9) for i in range(N)],
        "empty": pl.Series([None] * N, dtype=pl.String),
        "bid": [0.1 * i for i in range(N)],
        "2nd choice": [f"c{i % 3}" for i in range(N)],
        "size": [i % 3 for i in range(N)],
    }
)
USERS = pl.DataFrame({"user_id": range(40), "size": [i % 2 for i in range(40)]})
EVENTS = pl.DataFrame(
    {
        "user_id": [i % 40 for i in range(N * 4)],
        "item_id": [i % N for i in range(N * 4)],
        "timestamp_ms": [START_MS + 86_400_000 * 3 + i for i in range(N * 4)],
    }
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("auto") / "data"
    return write_dataset(path, events=EVENTS, items=ITEMS, users=USERS, name="shop", time="real")


@pytest.fixture(scope="module")
def decisions(dataset: Dataset) -> dict[tuple[str, str], Decision]:
    return {(d.side, d.column): d for d in infer_features(dataset).decisions}


def test_every_column_has_one_decision(decisions: dict[tuple[str, str], Decision]) -> None:
    assert {column for side, column in decisions if side == "item"} == set(ITEMS.columns)
    assert {column for side, column in decisions if side == "user"} == {"user_id", "history", "size"}


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("item_id", IdFeature),
        ("genres", ListFeature),
        ("brand", CategoricalFeature),
        ("price", NumericFeature),
        ("grade", CategoricalFeature),
        ("adult", CategoricalFeature),
        ("created_ms", NumericFeature),
        ("launched", NumericFeature),
        ("2nd choice", CategoricalFeature),
        ("size", CategoricalFeature),
    ],
)
def test_a_column_becomes_the_kind_of_its_values(decisions, column: str, kind: type) -> None:
    assert isinstance(decisions["item", column].feature, kind)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("title", "free text"),
        ("plot", "free text"),
        ("embedding", "list of Float64"),
        ("country", "always 'fr'"),
        ("imdb_id", "another id"),
        ("sku", "what the id says"),
        ("last_sold", "may tell of the future"),
        ("restocked", "may tell of the future"),
        ("empty", "no value"),
        ("bid", "paid"),
    ],
)
def test_a_column_is_left_out_for_a_reason(decisions, column: str, reason: str) -> None:
    assert decisions["item", column].feature is None
    assert reason in decisions["item", column].reason


def test_names_are_identifiers_and_unique_across_sides(decisions) -> None:
    assert decisions["item", "2nd choice"].feature.name == "item_2nd_choice"
    assert decisions["item", "2nd choice"].feature.column == "2nd choice"
    assert decisions["item", "size"].feature.name == "size"
    assert decisions["user", "size"].feature.name == "user_size"


def test_user_ids_are_left_out_and_the_history_covers_most_users(decisions) -> None:
    assert decisions["user", "user_id"].feature is None
    assert decisions["user", "history"].feature == HistoryFeature(length=20)


def test_the_inferred_definition_can_be_fitted(dataset: Dataset) -> None:
    features = FeatureSet.fit(
        infer_definition(dataset), items=dataset.items(), users=dataset.users(), events=dataset.events().collect()
    )
    assert {field.name for field in features.fields("user")} == {"user_size"}
    assert min(field.cardinality for field in features.fields("item")) > 3


def test_times_are_left_out_where_events_have_only_an_order(tmp_path: Path) -> None:
    ordered = EVENTS.with_columns(timestamp_ms=pl.int_range(pl.len()).over("user_id"))
    dataset = write_dataset(tmp_path / "data", events=ordered, items=ITEMS, users=USERS, name="shop", time="order")
    decisions = {d.column: d for d in infer_features(dataset).decisions if d.side == "item"}
    assert decisions["created_ms"].feature is None
    assert "order" in decisions["created_ms"].reason


def test_bare_pairs_give_the_id_and_the_history(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", events=EVENTS, name="pairs", time="real")
    assert infer_definition(dataset).features == (IdFeature(side="item"), HistoryFeature(length=20))


def test_the_description_has_a_line_a_column(dataset: Dataset) -> None:
    lines = infer_features(dataset).describe().splitlines()
    assert "item country: left out (always 'fr')" in lines
    assert "item genres: list (lists of up to 2 of 7 values)" in lines


def test_the_toy_set_is_understood(tmp_path: Path) -> None:
    features = infer_definition(write_toy(tmp_path / "toy")).features
    assert {f.name: f.kind for f in features}["genres"] == "list"


def test_a_narrow_integer_column_is_looked_at_without_overflow(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": [1, 2, 3], "weight": pl.Series([10, 20, 35], dtype=pl.Int8)})
    events = pl.DataFrame({"user_id": [7, 7, 8], "item_id": [1, 2, 3], "timestamp_ms": [0, 1, 0]})
    users = pl.DataFrame({"user_id": [7, 8]})
    dataset = write_dataset(tmp_path / "data", events=events, items=items, users=users, name="narrow", time="order")
    assert "weight" in {feature.name for feature in infer_definition(dataset).attributes("item")}

import json
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import BundleError, DataError
from recsys.features.definition import (
    CategoricalFeature,
    Feature,
    FeatureDefinition,
    HistoryFeature,
    IdFeature,
    ListFeature,
    NumericFeature,
    OverlapFeature,
)
from recsys.features.feature_set import FeatureSet, Field

ITEMS = pl.DataFrame(
    {
        "item_id": [10, 20, 30, 40],
        "genres": [["war", "love"], ["love"], [], None],
        "price": [1.0, 2.0, 3.5, None],
        "made": pl.Series(["2001-01-01", "2002-01-01", None, "2001-01-01"]).str.to_date(),
    }
)
USERS = pl.DataFrame({"user_id": [1, 2, 3], "gender": ["f", "m", "f"], "age": [18, None, 35]})
EVENTS = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [20, 10, 20, 30]})
DEFINITION = FeatureDefinition(
    features=(
        IdFeature(side="item"),
        ListFeature(name="genres", side="item", length=3),
        NumericFeature(name="price", side="item", buckets=2),
        IdFeature(side="user"),
        CategoricalFeature(name="gender", side="user"),
        HistoryFeature(length=5),
        OverlapFeature(name="same_genre", source="genres", edges=(0.0, 1.0)),
    )
)


def fit(definition: FeatureDefinition = DEFINITION, items: pl.DataFrame = ITEMS) -> FeatureSet:
    return FeatureSet.fit(definition, items=items, users=USERS, events=EVENTS)


def fit_one(feature: Feature, items: pl.DataFrame = ITEMS) -> FeatureSet:
    return fit(FeatureDefinition(features=(feature,)), items)


def test_fields_say_what_a_model_must_build() -> None:
    features = fit()
    assert features.fields("item") == (
        Field("item_id", "item", "id", 5),
        Field("genres", "item", "list", 4, length=3),
        Field("price", "item", "numeric", 4),
    )
    assert features.fields("user") == (Field("user_id", "user", "id", 4), Field("gender", "user", "categorical", 4))
    assert features.fields("cross") == (Field("same_genre", "cross", "overlap", 5),)
    assert features.history == Field("history", "user", "history", 5, length=5)


def test_ids_come_from_the_training_positives_most_frequent_first() -> None:
    assert fit().items.values.to_list() == [20, 10, 30]
    assert fit_one(IdFeature(side="item", min_count=2)).items.values.to_list() == [20]


def test_the_history_has_its_vocabulary_even_where_the_item_id_is_left_out() -> None:
    cold = fit(DEFINITION.without(["item_id"]))
    assert "item_id" not in {field.name for field in cold.fields("item")}
    assert cold.history == fit().history


def test_the_hash_is_that_of_definition_vocabularies_and_edges() -> None:
    assert fit().hash == fit(items=ITEMS.sample(fraction=1.0, shuffle=True, seed=1)).hash
    others = [
        fit(DEFINITION.without(["price"])),
        fit(items=ITEMS.with_columns(genres=pl.Series([["war"], ["war"], ["love"], []]))),
        fit(items=ITEMS.with_columns(price=pl.col("price") + 1)),
        FeatureSet.fit(DEFINITION, items=ITEMS, users=USERS, events=EVENTS.head(3)),
    ]
    assert len({fit().hash, *(other.hash for other in others)}) == 5


def test_a_saved_feature_set_opens_as_it_was(tmp_path: Path) -> None:
    features = fit()
    features.save(tmp_path / "features")
    again = FeatureSet.open(tmp_path / "features")
    assert again.hash == features.hash
    assert again.definition == features.definition
    assert again.edges == features.edges
    assert {n: v.values.to_list() for n, v in again.vocabularies.items()} == {
        n: v.values.to_list() for n, v in features.vocabularies.items()
    }


def test_an_altered_vocabulary_is_refused_by_its_file(tmp_path: Path) -> None:
    fit().save(tmp_path)
    other = fit(items=ITEMS.with_columns(genres=pl.Series([["peace"], [], [], []])))
    other.vocabularies["genres"].write(tmp_path / "genres.arrow")
    with pytest.raises(BundleError, match=r"genres\.arrow"):
        FeatureSet.open(tmp_path)


@pytest.mark.parametrize("change", [{"edges": {"price": [9.0], "same_genre": [0.0, 1.0]}}, {"hash": "0"}])
def test_an_altered_json_is_refused_by_its_file(tmp_path: Path, change: dict[str, object]) -> None:
    fit().save(tmp_path)
    path = tmp_path / "feature_set.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match=r"feature_set\.json.*hash"):
        FeatureSet.open(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "definition": 3}'])
def test_what_is_no_feature_set_is_refused_by_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "feature_set.json").write_text(text)
    with pytest.raises(BundleError, match=r"feature_set\.json"):
        FeatureSet.open(tmp_path)


def test_a_missing_folder_or_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"feature_set\.json"):
        FeatureSet.open(tmp_path / "nowhere")
    fit().save(tmp_path)
    (tmp_path / "item_id.npy").unlink()
    with pytest.raises(BundleError, match=r"item_id\.npy"):
        FeatureSet.open(tmp_path)


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(DataError, match=r"'colour'.*item_id, genres"):
        fit_one(CategoricalFeature(name="colour", side="item"))
    with pytest.raises(DataError, match="'colour'"):
        fit_one(OverlapFeature(name="same", source="colour"))


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (CategoricalFeature(name="price", side="item"), "fractions; use kind = 'numeric'"),
        (CategoricalFeature(name="genres", side="item"), "lists; use kind = 'list'"),
        (NumericFeature(name="genres", side="item"), "lists; use kind = 'list'"),
        (CategoricalFeature(name="made", side="item"), "Date; use kind = 'numeric'"),
    ],
)
def test_a_column_of_the_wrong_type_is_refused_with_the_kind_to_use(feature: Feature, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_one(feature)


def test_explicit_edges_are_kept_and_dates_are_numbers() -> None:
    assert fit_one(NumericFeature(name="price", side="item", edges=(2.0,))).edges == {"price": (2.0,)}
    assert fit_one(NumericFeature(name="made", side="item", buckets=2)).edges == {"made": (978_307_200_000.0,)}


def test_large_unsigned_integers_are_kept_apart_as_strings() -> None:
    items = ITEMS.with_columns(code=pl.Series([2**64 - 1, 2**64 - 2, 1, 1], dtype=pl.UInt64))
    codes = fit_one(CategoricalFeature(name="code", side="item"), items).vocabularies["code"]
    assert [codes.code_of(v) for v in (1, 2**64 - 2, 2**64 - 1, 2)] == [2, 3, 4, 1]

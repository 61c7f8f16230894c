"""What the codes of a world small enough to check by hand must be; parity is tested elsewhere."""

import numpy as np
import polars as pl
import pytest

from recsys.data.catalogue import Catalogue
from recsys.errors import DataError
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
from recsys.features.offline import encode_histories, encode_items, encode_users
from recsys.features.online import OnlineEncoder
from recsys.types import Candidates, RaggedRows, Users

ITEMS = pl.DataFrame(
    {
        "item_id": [10, 20, 30, 40, 50],
        "genres": [["war", "love", "war"], ["love"], [], ["art", None, "war"], None],
        "brand": ["a", "b", "a", None, "c"],
        "price": [1.0, 2.0, float("nan"), float("inf"), None],
    }
)
USERS = pl.DataFrame({"user_id": [1, 2], "city": ["Rome", "Oslo"], "tags": [["x"], ["y", "x"]]})
EVENTS = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [20, 10, 20, 30]})
DEFINITION = FeatureDefinition(
    features=(
        IdFeature(side="item"),
        ListFeature(name="genres", side="item", length=2),
        NumericFeature(name="price", side="item", edges=(1.0, 2.0)),
        IdFeature(side="user"),
        CategoricalFeature(name="town", side="user", source="city"),
        ListFeature(name="tags", side="user", length=3),
        HistoryFeature(length=3),
        OverlapFeature(name="same_genre", source="genres", edges=(0.0, 1.0, 2.0)),
        OverlapFeature(name="same_brand", source="brand", length=2, edges=(0.0, 1.0, 2.0)),
    )
)
FEATURES = FeatureSet.fit(DEFINITION, items=ITEMS, users=USERS, events=EVENTS)
CATALOGUE = Catalogue(ITEMS)
ENCODER = OnlineEncoder(FEATURES, CATALOGUE)


def users(*histories: list[int], known: bool = True, **attributes: list[object]) -> Users:
    """Users 1, 2, … with histories of catalogue rows."""
    size = len(histories)
    rows = RaggedRows.of(histories)
    return Users(np.arange(1, size + 1), np.full(size, known), attributes, rows, rows)


def candidates(*lists: list[int]) -> Candidates:
    rows = RaggedRows.of(lists)
    size = len(rows.values)
    return Candidates(rows.values, np.zeros(size, np.float32), np.zeros(size, np.uint32), rows.offsets)


def test_items_are_coded_row_by_row() -> None:
    codes = encode_items(FEATURES, ITEMS)
    assert codes["item_id"].tolist() == [3, 2, 4, 1, 1], "20 twice, 10 and 30 once, 40 and 50 never"
    assert codes["genres"].tolist() == [[2, 3], [3, 0], [0, 0], [4, 0], [0, 0]], "war 3, love 2, art 1 times; two kept"
    assert codes["price"].tolist() == [2, 3, 0, 4, 0]
    assert all(array.dtype == np.int32 for array in codes.values())


def test_the_encoder_holds_the_codes_of_the_catalogue() -> None:
    assert ENCODER.item_index.tolist() == [3, 2, 4, 1, 1]
    for name, codes in encode_items(FEATURES, ITEMS).items():
        np.testing.assert_array_equal(ENCODER.items[name], codes, strict=True)


def test_users_are_coded_with_what_the_profile_says() -> None:
    codes = ENCODER.encode_users(users([], [], [], city=["Rome", None, "Bonn"], tags=[["x", "z"], None, "y"]))
    assert codes["user_id"].tolist() == [2, 3, 1]
    assert codes["town"].tolist() == [3, 0, 1], "Oslo before Rome: equal counts go by value"
    assert codes["tags"].tolist() == [[2, 1, 0], [0, 0, 0], [3, 0, 0]]


def test_an_anonymous_user_without_profile_is_all_missing() -> None:
    codes = ENCODER.encode_users(users([], known=False))
    assert {name: array.any() for name, array in codes.items()} == dict.fromkeys(codes, False)
    assert set(codes) == {"user_id", "town", "tags", "history", "history_age"}


def test_a_history_keeps_its_newest_items_and_is_padded_on_the_left() -> None:
    batch = users([0, 1, 2, 3], [1], [])
    codes = ENCODER.encode_users(batch)
    assert codes["history"].tolist() == [[2, 4, 1], [0, 0, 2], [0, 0, 0]]
    assert codes["history_age"].tolist() == [[3, 2, 1], [0, 0, 1], [0, 0, 0]]


def test_a_trimmed_history_is_as_long_as_the_longest_of_the_batch() -> None:
    assert ENCODER.encode_users(users([1, 2], [1]), trim=True)["history"].tolist() == [[2, 4], [0, 2]]
    assert ENCODER.encode_users(users([1]), trim=True)["history"].tolist() == [[2]]
    assert ENCODER.encode_users(users([]), trim=True)["history_age"].tolist() == [[0]]
    assert ENCODER.encode_users(users([], []), trim=True)["history"].shape == (2, 1)
    assert ENCODER.encode_users(users(), trim=True)["history"].shape == (0, 1)


def test_offline_histories_skip_nulls_and_keep_the_place_of_unseen_items() -> None:
    frame = pl.DataFrame({"seen": [[10, None, 40, 20], None]}, schema={"seen": pl.List(pl.Int64)})
    codes = encode_histories(FEATURES, frame, "seen")
    assert codes["history"].tolist() == [[3, 1, 2], [0, 0, 0]]
    assert codes["history_age"].tolist() == [[3, 2, 1], [0, 0, 0]]


def test_overlap_counts_history_items_that_share_a_value() -> None:
    """History: war+love, love, none, art+war. Candidates in turn: 3, 2 and 2 items share a genre with them."""
    codes = ENCODER.encode_cross(users([0, 1, 2, 3]), candidates([0, 1, 3, 2, 4]))
    assert codes["same_genre"].tolist() == [2 + 3, 2 + 2, 2 + 2, 0, 0]


def test_overlap_looks_at_the_newest_items_alone() -> None:
    codes = ENCODER.encode_cross(users([0, 2, 1, 3]), candidates([0, 1, 4]))
    assert codes["same_brand"].tolist() == [2, 3, 2], "b and a missing brand are the newest two"


def test_overlap_is_missing_without_history_or_without_a_value() -> None:
    codes = ENCODER.encode_cross(users([], [0], []), candidates([0, 1], [2, 0], []))
    assert codes["same_genre"].tolist() == [0, 0, 0, 3]
    assert ENCODER.encode_cross(users(), candidates())["same_genre"].shape == (0,)


def test_overlap_counts_beyond_one_machine_word() -> None:
    batch = users([0] * 150)
    wide = FeatureDefinition(features=(OverlapFeature(name="same_genre", source="genres", edges=(149.0, 150.0)),))
    features = FeatureSet.fit(wide, items=ITEMS, users=USERS, events=EVENTS)
    assert OnlineEncoder(features, CATALOGUE).encode_cross(batch, candidates([1]))["same_genre"].tolist() == [3]


def test_a_missing_column_is_named_offline() -> None:
    with pytest.raises(DataError, match=r"'city'.*user_id, tags"):
        encode_users(FEATURES, USERS.drop("city"))
    with pytest.raises(DataError, match="'history'"):
        encode_histories(FEATURES, USERS)


def test_a_feature_set_without_history_has_none_to_encode() -> None:
    features = FeatureSet.fit(DEFINITION.without(["history"]), items=ITEMS, users=USERS, events=EVENTS)
    with pytest.raises(DataError, match="no history"):
        encode_histories(features, pl.DataFrame({"history": [[10]]}))
    assert "history" not in OnlineEncoder(features, CATALOGUE).encode_users(users([0]))


def test_a_profile_of_the_wrong_shape_is_unseen_not_an_error() -> None:
    codes = ENCODER.encode_users(users([], [], city=[["Rome"], {"name": "Rome"}], tags=[[["x"]], {"x": 1}]))
    assert codes["town"].tolist() == [1, 1]
    assert codes["tags"].tolist() == [[1, 0, 0], [1, 0, 0]]

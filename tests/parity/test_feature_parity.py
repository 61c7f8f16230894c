"""The polars encoder and the NumPy encoder give the same arrays, whatever the columns hold."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.columns import ITEM_ID, USER_ID
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
from recsys.features.offline import encode_cross, encode_histories, encode_items, encode_users
from recsys.features.online import OnlineEncoder
from recsys.types import Candidates, RaggedRows, Users, offsets_of

INT64 = st.one_of(st.integers(-4, 4), st.sampled_from([-(2**63), 2**63 - 1, 2**53, 2**53 + 1, -(2**53) - 1]))
TEXT = st.one_of(
    st.sampled_from(
        ["", "a", "b", "ä", "日本", "𝄞", "a\u0301", "3", "+3", "007", "3.0", "2.5", "-0", "true", "nan", "1e3"]
    ),
    st.text(max_size=3),
)
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0, 2.5, -0.5, -3.0, 1e300, 2.0**63, -(2.0**63), 5e-324]),
    st.floats(allow_nan=True, allow_infinity=True),
)
WHOLE = st.one_of(st.integers(-3, 3).map(float), st.just(float("nan")))
MOMENTS = st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(2200, 1, 1))

SCALARS: dict[str, tuple[st.SearchStrategy, pl.DataType]] = {
    "integer": (INT64, pl.Int64()),
    "small": (st.integers(-128, 127), pl.Int8()),
    "unsigned": (st.one_of(st.integers(0, 3), st.just(2**64 - 1)), pl.UInt64()),
    "boolean": (st.booleans(), pl.Boolean()),
    "whole": (WHOLE, pl.Float64()),
    "fraction": (FLOATS, pl.Float64()),
    "single": (st.floats(width=32), pl.Float32()),
    "text": (TEXT, pl.String()),
    "category": (TEXT, pl.Categorical()),
    "moment": (MOMENTS, pl.Datetime("us")),
    "day": (st.dates(dt.date(1600, 1, 1), dt.date(2200, 1, 1)), pl.Date()),
    "nothing": (st.none(), pl.Null()),
}
VOCABULARY_KINDS = ["integer", "small", "unsigned", "boolean", "whole", "text", "category", "nothing"]
NUMBER_KINDS = list(SCALARS)


@st.composite
def columns(draw, kinds: list[str], rows: int, lists: bool = False) -> pl.Series:
    """A column of one of the kinds, with nulls; lists of it, with empty lists and nulls inside."""
    values, dtype = SCALARS[draw(st.sampled_from(kinds))]
    cells = st.one_of(st.none(), values)
    if lists:
        cells, dtype = st.one_of(st.none(), st.lists(cells, max_size=5)), pl.List(dtype)
    return pl.Series("value", draw(st.lists(cells, min_size=rows, max_size=rows)), dtype=dtype)


@st.composite
def like(draw, fitted: pl.Series, rows: int, lists: bool = False) -> pl.Series:
    """A column to ask about: often values that were fitted, else of any type."""
    if len(fitted) and draw(st.booleans()):
        return fitted.gather(draw(st.lists(st.integers(0, len(fitted) - 1), min_size=rows, max_size=rows)))
    return draw(columns(list(SCALARS), rows, lists))


def assert_same(offline: dict[str, np.ndarray], online: dict[str, np.ndarray]) -> None:
    assert offline.keys() == online.keys()
    for name in offline:
        np.testing.assert_array_equal(offline[name], online[name], err_msg=name, strict=True)
        assert offline[name].dtype == np.int32


def users_of(frame: pl.DataFrame, histories: list[list[int]] | None = None) -> Users:
    ids = frame[USER_ID]
    attributes = {name: frame[name].to_list() for name in frame.columns if name != USER_ID}
    rows = RaggedRows.of(histories if histories is not None else [[] for _ in range(len(frame))])
    return Users(ids.fill_null(0).to_numpy(), ids.is_not_null().to_numpy(), attributes, rows, rows)


def no_items() -> pl.DataFrame:
    return pl.DataFrame({ITEM_ID: [1]}, schema={ITEM_ID: pl.Int64})


def events(items: list[int], users: list[int]) -> pl.DataFrame:
    size = max(len(items), len(users))
    columns = {ITEM_ID: (items * size)[:size], USER_ID: (users * size)[:size]}
    return pl.DataFrame(columns, schema={ITEM_ID: pl.Int64, USER_ID: pl.Int64})


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_user_attributes_are_encoded_alike(data) -> None:
    """Fitted on one table, asked about another whose columns may have other types altogether."""
    fitted, asked = data.draw(st.integers(0, 8)), data.draw(st.integers(0, 6))
    limits = {"min_count": data.draw(st.integers(1, 2)), "max_size": data.draw(st.none() | st.integers(1, 3))}
    definition = FeatureDefinition(
        features=(
            IdFeature(side="user", **limits),
            CategoricalFeature(name="category", side="user", **limits),
            NumericFeature(name="number", side="user", buckets=data.draw(st.integers(2, 5))),
            ListFeature(name="list", side="user", length=data.draw(st.integers(1, 4)), **limits),
        )
    )
    training = pl.DataFrame(
        {
            USER_ID: pl.Series(range(fitted), dtype=pl.Int64),
            "category": data.draw(columns(VOCABULARY_KINDS, fitted)),
            "number": data.draw(columns(NUMBER_KINDS, fitted)),
            "list": data.draw(columns(VOCABULARY_KINDS, fitted, lists=data.draw(st.booleans()))),
        }
    )
    seen = data.draw(st.lists(INT64, max_size=6))
    features = FeatureSet.fit(definition, items=no_items(), users=training, events=events([1], seen or [1]))
    serving = pl.DataFrame(
        {
            USER_ID: pl.Series(data.draw(st.lists(st.none() | INT64, min_size=asked, max_size=asked)), dtype=pl.Int64),
            "category": data.draw(like(training["category"], asked)),
            "number": data.draw(like(training["number"], asked)),
            "list": data.draw(like(training["list"], asked, lists=data.draw(st.booleans()))),
        }
    )
    encoder = OnlineEncoder(features, Catalogue(no_items()))
    online = encoder.encode_users(users_of(serving))
    assert_same(encode_users(features, serving), online)
    for b in range(asked):
        alone = encoder.encode_users(users_of(serving.slice(b, 1)))
        assert_same({name: codes[b : b + 1] for name, codes in online.items()}, alone)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.none() | st.integers(-3, 3), min_size=1, max_size=8),
    st.lists(st.none() | st.integers(-4, 4), max_size=8),
)
def test_a_profile_from_json_is_encoded_as_the_column_it_came_from(trained, asked) -> None:
    """Integers survive being written as strings or as floats on their way through a store."""
    definition = FeatureDefinition(
        features=(
            CategoricalFeature(name="code", side="user"),
            NumericFeature(name="number", side="user", source="code", buckets=3),
            ListFeature(name="list", side="user", source="codes", length=2),
        )
    )

    def table(values: list[int | None]) -> pl.DataFrame:
        code = pl.Series(values, dtype=pl.Int64)
        return pl.DataFrame({USER_ID: range(len(values)), "code": code, "codes": [[v, v] for v in code.to_list()]})

    features = FeatureSet.fit(definition, items=no_items(), users=table(trained), events=events([1], [1]))
    offline = encode_users(features, table(asked).cast({"codes": pl.List(pl.Int64)}))
    encoder = OnlineEncoder(features, Catalogue(no_items()))
    for form in (lambda v: v, str, float):
        sent = [None if v is None else form(v) for v in asked]
        profile = json.loads(json.dumps({"code": sent, "codes": [[v, v] for v in sent]}))
        nobody = RaggedRows.empty(len(asked))
        ids = np.arange(len(asked))
        users = Users(ids, np.ones(len(asked), np.bool_), profile, nobody, nobody)
        assert_same(offline, encoder.encode_users(users))


@st.composite
def worlds(draw) -> tuple[pl.DataFrame, list[list[int]], list[list[int]]]:
    """Items with attributes, and for each of some users a history and candidates (as item ids)."""
    ids = sorted(draw(st.sets(INT64, min_size=1, max_size=8)))
    kinds = ["integer", "boolean", "whole", "fraction", "text", "category", "day", "nothing"]
    items = pl.DataFrame(
        {
            ITEM_ID: pl.Series(ids, dtype=pl.Int64),
            "category": draw(columns(VOCABULARY_KINDS, len(ids))),
            "number": draw(columns(NUMBER_KINDS, len(ids))),
            "list": draw(columns(VOCABULARY_KINDS, len(ids), lists=True)),
            "scalar_overlap": draw(columns(kinds, len(ids))),
            "list_overlap": draw(columns(kinds, len(ids), lists=True)),
        }
    )
    some = st.lists(st.sampled_from(ids), max_size=9)
    users = draw(st.integers(0, 4))
    chosen = st.lists(some, min_size=users, max_size=users)
    return items, draw(chosen), draw(chosen)


@settings(max_examples=150, deadline=None)
@given(worlds(), st.data())
def test_items_histories_and_crosses_are_encoded_alike(world, data) -> None:
    """Offline from ids and tables, online from catalogue rows."""
    items, histories, candidates = world
    length = data.draw(st.integers(1, 7))
    definition = FeatureDefinition(
        features=(
            IdFeature(side="item", min_count=data.draw(st.integers(1, 2))),
            CategoricalFeature(name="category", side="item"),
            NumericFeature(name="number", side="item", buckets=3),
            ListFeature(name="list", side="item", length=data.draw(st.integers(1, 3))),
            HistoryFeature(length=length),
            OverlapFeature(name="scalar_overlap", length=data.draw(st.integers(1, 7)), edges=(0.0, 1.0, 3.0)),
            OverlapFeature(name="other_overlap", source="list_overlap", edges=(0.0, 2.0)),
        )
    )
    trained = data.draw(st.lists(st.sampled_from(items[ITEM_ID].to_list()), max_size=12))
    features = FeatureSet.fit(
        definition, items=items, users=pl.DataFrame({USER_ID: [1]}), events=events(trained, [1] if trained else [])
    )
    catalogue = Catalogue(items)
    encoder = OnlineEncoder(features, catalogue)
    rows = [catalogue.rows_of(np.array(ids, np.int64)) for ids in histories]
    users = users_of(pl.DataFrame({USER_ID: pl.Series(range(len(rows)), dtype=pl.Int64)}), rows)
    flat = [catalogue.rows_of(np.array(ids, np.int64)) for ids in candidates]
    total = sum(map(len, flat))
    asked = Candidates(
        np.concatenate([np.empty(0, np.int32), *flat]),
        np.zeros(total, np.float32),
        np.zeros(total, np.uint32),
        offsets_of([len(part) for part in flat]),
    )
    shuffled = items.sample(fraction=1.0, shuffle=True, seed=0)
    order = catalogue.rows_of(shuffled[ITEM_ID].to_numpy())
    assert_same(encode_items(features, shuffled), {name: codes[order] for name, codes in encoder.items.items()})
    np.testing.assert_array_equal(encoder.item_index, encoder.items[ITEM_ID], strict=True)

    table = pl.DataFrame(
        {"history": histories, "candidates": candidates},
        schema={"history": pl.List(pl.Int64), "candidates": pl.List(pl.Int64)},
    )
    online = encoder.encode_users(users)
    assert_same(encode_histories(features, table), online)
    assert_same(encode_cross(features, table, shuffled), encoder.encode_cross(users, asked))
    for b in range(len(users)):
        alone = encoder.encode_users(users.slice(b, b + 1), trim=True)
        width = max(1, min(length, len(histories[b])))
        assert_same({name: codes[b : b + 1, length - width :] for name, codes in online.items()}, alone)

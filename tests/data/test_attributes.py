from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from recsys.data.attributes import type_attributes
from recsys.errors import DataError


def typed(values: list[Any], name: str = "x", *, by_file: bool = False, kind: Any = None) -> pl.Series:
    return type_attributes(pl.DataFrame({name: pl.Series(values, dtype=kind)}), typed=by_file, source="f")[name]


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        (["1", None, "-3"], pl.Int64, [1, None, -3]),
        (["1", "2.5"], pl.Float64, [1.0, 2.5]),
        (["true", "False", None], pl.Boolean, [True, False, None]),
        (["1", "x"], pl.String, ["1", "x"]),
        (["007", "123"], pl.String, ["007", "123"]),
        (["00.5", "1.5"], pl.String, ["00.5", "1.5"]),
        (["0", "0.5"], pl.Float64, [0.0, 0.5]),
        (["a|b", "c"], pl.List(pl.String), [["a", "b"], ["c"]]),
        ([None, None], pl.String, [None, None]),
        (["2024-01-01", None], pl.Int64, [1_704_067_200_000, None]),
        (["2024-01-01T00:00:01Z", "2024-01-01 01:00:01+01:00"], pl.Int64, [1_704_067_201_000] * 2),
        (["2024-01-01", "soon"], pl.String, ["2024-01-01", "soon"]),
    ],
)
def test_text_becomes_the_narrowest_type_that_loses_nothing(text: list[Any], kind: Any, values: list[Any]) -> None:
    column = typed(text, kind=pl.String)
    assert column.dtype == kind
    assert column.to_list() == values


def test_a_rare_bar_makes_no_list() -> None:
    assert typed(["a"] * 99 + ["b|c"]).dtype == pl.String


def test_a_title_stays_text() -> None:
    assert typed(["1984", "300"], "title").to_list() == ["1984", "300"]
    assert typed(["a|b", "c|d"], "title").dtype == pl.String


def test_strings_that_the_file_calls_strings_stay_so() -> None:
    assert typed(["1", "2"], by_file=True).dtype == pl.String


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (pl.UInt8, pl.Int64),
        (pl.Float32, pl.Float64),
        (pl.List(pl.Int16), pl.List(pl.Int64)),
        (pl.List(pl.Categorical), pl.List(pl.String)),
        (pl.Null, pl.String),
    ],
)
def test_types_are_few(kind: Any, becomes: Any) -> None:
    assert typed([None], kind=kind).dtype == becomes


def test_a_bid_is_a_number() -> None:
    assert typed(["1", None], "bid").to_list() == [1.0, None]
    with pytest.raises(DataError, match="bid 'much' is not a number"):
        typed(["1", "much"], "bid")


def test_a_nested_type_is_refused() -> None:
    with pytest.raises(DataError, match="'x' is List"):
        typed([[["a"]]])

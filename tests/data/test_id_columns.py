from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.data.id_columns import IdPlan, count_ids, plan_ids
from recsys.data.readers.raw import MALFORMED, ROW, RawTable
from recsys.data.string_ids import hash_key
from recsys.errors import DataError


def table(values: list[Any], kind: Any = None) -> RawTable:
    frame = pl.DataFrame({"id": pl.Series(values, dtype=kind)}).with_columns(pl.lit(None, pl.String).alias(MALFORMED))
    return RawTable(Path("log.csv"), frame.with_row_index(ROW).lazy())


def plan(tables: list[RawTable], policy: Any = "auto") -> IdPlan:
    return plan_ids([(raw, "id", count_ids(raw, ["id"])) for raw in tables], "id", policy, 0.01)


def ids(values: list[Any], kind: Any = None, policy: Any = "auto") -> list[int | None]:
    raw = table(values, kind)
    return plan([raw], policy).encode(raw.frame, "id").collect()["id"].to_list()


def test_what_looks_like_an_integer_stays_one() -> None:
    assert ids(["12", "-3", "0", str(2**63 - 1)]) == [12, -3, 0, 2**63 - 1]
    assert ids([1, 2], pl.UInt8) == [1, 2]
    assert ids([1.0, 2.0]) == [1, 2]


@pytest.mark.parametrize("odd", ["007", "+5", "-0", "1.0", "1e3", str(2**63), "five"])
def test_what_an_integer_would_change_is_a_string(odd: str) -> None:
    assert ids([odd]) == [hash_key(odd)]


def test_strings_are_hashed_and_empty_ones_are_missing() -> None:
    assert ids(["b", None, "a", "b"]) == [hash_key("b"), None, hash_key("a"), hash_key("b")]
    assert ids(["b", "a"], pl.Categorical) == [hash_key("b"), hash_key("a")]


def test_a_few_words_among_many_integers_are_bad_rows() -> None:
    assert ids([*map(str, range(199)), "x"]) == [*range(199), None]


def test_neither_the_one_nor_the_other_is_not_guessed() -> None:
    with pytest.raises(DataError, match=r"2 of 10 values are not integers, such as 'x', 'y'.*--ids string"):
        ids([*map(str, range(8)), "x", "y"])


def test_the_user_may_say_what_ids_are() -> None:
    assert ids(["1", "2"], policy="string") == [hash_key("1"), hash_key("2")]
    assert ids([1, 2], policy="string") == [hash_key("1"), hash_key("2")]
    assert ids(["x", "y", "3"], policy="integer") == [None, None, 3]


def test_ids_of_two_tables_are_of_one_kind() -> None:
    events, attributes = table(["1", "2"]), table(["x", "y", "z"])
    assert plan([events, attributes]).kind == "string"
    assert plan([events, table([1, 2, 3])]).kind == "integer"


def test_a_type_that_no_id_has_is_refused() -> None:
    with pytest.raises(DataError, match="'id' is Boolean"):
        ids([True])

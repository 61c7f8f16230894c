from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from recsys.data.readers.raw import MALFORMED, RawTable
from recsys.data.timestamps import plan_times
from recsys.errors import DataError

MOMENT = 1_600_000_000_123


def read(values: pl.Series) -> tuple[str, list[int | None]]:
    """The unit that a column is seen to have, and its values as milliseconds."""
    frame = values.alias("t").to_frame().with_columns(pl.lit(None, pl.String).alias(MALFORMED))
    plan = plan_times(RawTable(Path("log.csv"), frame.lazy()), "t")
    return plan.unit, frame.select(plan.milliseconds("t", values.dtype))["t"].to_list()


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("seconds", 1_600_000_000, 1_600_000_000_000),
        ("milliseconds", MOMENT, MOMENT),
        ("microseconds", MOMENT * 1_000 + 456, MOMENT),
        ("nanoseconds", MOMENT * 1_000_000 + 456_789, MOMENT),
    ],
)
@pytest.mark.parametrize("kind", [pl.Int64, pl.String, pl.Float64])
def test_the_unit_of_numbers_is_seen_by_their_size(unit: str, value: int, expected: int, kind: pl.DataType) -> None:
    seen, times = read(pl.Series([value, value + 1]).cast(kind))
    assert seen == unit
    assert times[0] == pytest.approx(expected, abs=1 if kind == pl.Float64 else 0)


def test_parts_of_a_second_are_kept() -> None:
    assert read(pl.Series([881250949.25, 881250950.0]))[1] == [881250949250, 881250950000]
    assert read(pl.Series(["881250949.25", "881250950"]))[1] == [881250949250, 881250950000]


def test_one_odd_value_does_not_change_the_unit() -> None:
    unit, times = read(pl.Series([0, *[1_600_000_000] * 5, 1_600_000_000_000]))
    assert unit == "seconds"
    assert times == [0, *[1_600_000_000_000] * 5, None]


@pytest.mark.parametrize(
    "text",
    [
        "2020-09-13 12:26:40",
        "2020-09-13T12:26:40",
        "2020-09-13T12:26:40Z",
        "2020-09-13T12:26:40.000+00:00",
        "2020-09-13T14:26:40+02:00",
        "2020-09-13 14:26:40 +0200",
        "2020/09/13 12:26:40",
        " 2020-09-13 12:26:40 ",
    ],
)
def test_dates_are_read_in_their_zone_and_naive_ones_in_utc(text: str) -> None:
    assert read(pl.Series([text, text])) == ("dates", [1_600_000_000_000] * 2)


def test_days_begin_at_midnight_utc() -> None:
    assert read(pl.Series(["2020-09-13", "soon", "2020-09-13 00:01"]))[1] == [
        1_599_955_200_000,
        None,
        1_599_955_260_000,
    ]
    assert read(pl.Series([date(2020, 9, 13)]))[1] == [1_599_955_200_000]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_a_typed_column(unit: str) -> None:
    naive = datetime(2020, 9, 13, 12, 26, 40)
    there = datetime(2020, 9, 13, 14, 26, 40, tzinfo=timezone(timedelta(hours=2)))
    for moment in (naive, naive.replace(tzinfo=UTC), there):
        series = pl.Series([moment]).dt.cast_time_unit(unit)
        assert read(series)[1] == [1_600_000_000_000]


def test_what_is_no_time_is_null() -> None:
    assert read(pl.Series(["1600000000", "soon", None, "nan", "inf", "1e30"]))[1] == [1_600_000_000_000, *[None] * 5]


def test_a_column_of_another_type_is_refused() -> None:
    with pytest.raises(DataError, match="'t' is Boolean"):
        read(pl.Series([True]))

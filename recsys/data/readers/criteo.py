"""Reader of Criteo's conversion log (Chapelle, KDD 2014): clicks, each with its features and perhaps a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from recsys.columns import CLICK_ID, EVENT, ITEM_ID, TIMESTAMP_MS, USER_ID, EventType
from recsys.data.readers.raw import LINE, MALFORMED, ROW, TEXT, RawData, RawTable, ReaderOptions
from recsys.data.readers.text import TextFile
from recsys.data.string_ids import hash_series

_CLICKED: Final = "clicked"
_CONVERTED: Final = "converted"
INTEGERS: Final = tuple(f"integer_{number}" for number in range(1, 9))
CATEGORIES: Final = tuple(f"category_{number}" for number in range(1, 10))
_KEY_SEPARATOR: Final = "|"


def read_criteo_conversion(path: Path, options: ReaderOptions) -> RawData:
    """Tab-separated lines without a header: click second, conversion second or nothing, 8 integers, 9 categories.

    The log names neither users nor items. Each line becomes a user of its own, the 0-based number of the line,
    with `integer_1` to `integer_8`; the item is the 63-bit hash of its nine categories joined by "|", with
    `category_1` to `category_9`. So an event joined with its user and its item has all 17 features of its click.

    Line n is the click with event id 2n; its conversion, where there is one, has 2n + 1 and names that click.
    Times are seconds since the start of the log, so that the dataset's times are real and begin in 1970.
    """
    frame = TextFile.open(path).fields("\t", (_CLICKED, _CONVERTED, *INTEGERS, *CATEGORIES))
    numbers = (_CLICKED, _CONVERTED, *INTEGERS)
    wrong = [_not_an_integer(name) for name in numbers]
    clicked, converted = pl.col(_CLICKED), pl.col(_CONVERTED)
    early = pl.when(converted < clicked).then(
        pl.format("its conversion at {} is before its click at {}", converted, clicked)
    )
    key = pl.concat_str([pl.col(name).fill_null("") for name in CATEGORIES], separator=_KEY_SEPARATOR)
    item = key.map_batches(hash_series, return_dtype=pl.Int64(), is_elementwise=True)
    lines = (
        frame.with_columns(
            pl.coalesce(MALFORMED, pl.when(clicked.is_null()).then(pl.lit("it has no click time")), *wrong).alias(
                MALFORMED
            )
        )
        .with_columns(pl.col(name).cast(pl.Int64, strict=False) for name in numbers)
        .with_columns(pl.coalesce(MALFORMED, early).alias(MALFORMED), pl.col(ROW).alias(USER_ID), item.alias(ITEM_ID))
    )
    return RawData(
        RawTable(path, pl.concat([_clicks(lines), _conversions(lines)]), typed=True),
        RawTable(path, _items(lines), typed=True),
        RawTable(path, _users(lines), typed=True),
        time_note="seconds since the start of the log",
    )


def _clicks(lines: pl.LazyFrame) -> pl.LazyFrame:
    return lines.select(
        pl.col(ROW) * 2,
        LINE,
        TEXT,
        MALFORMED,
        USER_ID,
        ITEM_ID,
        pl.lit(EventType.CLICK.value).alias(EVENT),
        pl.col(_CLICKED).alias(TIMESTAMP_MS),
        pl.lit(None, pl.Int64).alias(CLICK_ID),
    )


def _conversions(lines: pl.LazyFrame) -> pl.LazyFrame:
    return lines.filter(pl.col(MALFORMED).is_null(), pl.col(_CONVERTED).is_not_null()).select(
        pl.col(ROW) * 2 + 1,
        LINE,
        TEXT,
        MALFORMED,
        USER_ID,
        ITEM_ID,
        pl.lit(EventType.CONVERSION.value).alias(EVENT),
        pl.col(_CONVERTED).alias(TIMESTAMP_MS),
        (pl.col(ROW) * 2).alias(CLICK_ID),
    )


def _items(lines: pl.LazyFrame) -> pl.LazyFrame:
    """A row for each different nine categories; in memory, as the items of a dataset are."""
    sound = lines.filter(pl.col(MALFORMED).is_null())
    found = sound.group_by(ITEM_ID, *CATEGORIES).agg(pl.col(ROW).min(), pl.col(LINE).min()).sort(ROW)
    nothing = pl.lit(None, pl.String)
    placed = found.select(ROW, LINE, nothing.alias(TEXT), nothing.alias(MALFORMED), ITEM_ID, *CATEGORIES)
    return placed.collect(engine="streaming").lazy()


def _users(lines: pl.LazyFrame) -> pl.LazyFrame:
    nothing = pl.lit(None, pl.String)
    sound = lines.filter(pl.col(MALFORMED).is_null())
    return sound.select(ROW, LINE, nothing.alias(TEXT), nothing.alias(MALFORMED), USER_ID, *INTEGERS)


def _not_an_integer(name: str) -> pl.Expr:
    wrong = pl.col(name).is_not_null() & pl.col(name).cast(pl.Int64, strict=False).is_null()
    return pl.when(wrong).then(pl.format(f"{name} '{{}}' is not an integer", name))

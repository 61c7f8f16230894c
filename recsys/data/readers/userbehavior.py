"""Reader of Alibaba's UserBehavior log: one CSV file without a header, `user,item,category,behaviour,seconds`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from recsys.columns import EVENT, ITEM_ID, TIMESTAMP_MS, USER_ID, EventType
from recsys.data.readers.raw import LINE, MALFORMED, PLACE, ROW, TEXT, RawData, RawTable, ReaderOptions
from recsys.data.readers.text import TextFile

CATEGORY: Final = "category"
_BEHAVIOURS: Final = {
    "pv": EventType.CLICK.value,
    "cart": EventType.CLICK.value,
    "fav": EventType.CLICK.value,
    "buy": EventType.CONVERSION.value,
}
"""A page view, a cart and a favourite each say that the user went for the item; only buying is what a shop is for."""
_FIRST_SECOND: Final = 1_511_539_200
_END_SECOND: Final = 1_512_316_800
"""Midnight before 2017-11-25 and after 2017-12-03 in UTC+8: the days that the publisher says the log covers."""
_SAMPLE: Final = 10_000


def read_userbehavior(path: Path, options: ReaderOptions) -> RawData:
    """The published log, or one of the same form.

    Page views, carts and favourites are clicks, purchases are conversions (`--events` says otherwise). An
    item's category becomes its attribute: the one that most of its rows give, the smaller of two.

    The published log has rows whose times lie years away from its nine days: in a file of which most times
    are inside them, the others are bad rows.
    """
    file = TextFile.open(path)
    frame = file.fields(",", (USER_ID, ITEM_ID, CATEGORY, EVENT, TIMESTAMP_MS))
    bad = [_not_an_integer(name) for name in (USER_ID, ITEM_ID, CATEGORY)]
    if _is_published_log(frame):
        bad.append(_outside_the_log())
    checked = frame.with_columns(pl.coalesce(MALFORMED, *bad).alias(MALFORMED))
    events = RawTable(path, checked.select(*PLACE, USER_ID, ITEM_ID, EVENT, TIMESTAMP_MS))
    items = RawTable(path, _categories(checked), typed=True)  # a category's number is its name
    return RawData(events, items, event_names=_BEHAVIOURS)


def _categories(rows: pl.LazyFrame) -> pl.LazyFrame:
    """A row an item, with its most frequent category; in memory, as the items of a dataset are."""
    named = rows.filter(pl.col(MALFORMED).is_null(), pl.col(ITEM_ID).is_not_null(), pl.col(CATEGORY).is_not_null())
    counted = named.group_by(ITEM_ID, CATEGORY).agg(pl.len().alias("rows"), pl.col(ROW).min(), pl.col(LINE).min())
    chosen = counted.sort("rows", pl.col(CATEGORY).cast(pl.Int64), descending=[True, False]).unique(
        ITEM_ID, keep="first", maintain_order=True
    )
    text = pl.concat_str(ITEM_ID, CATEGORY, separator=",").alias(TEXT)
    found = chosen.select(ROW, LINE, text, pl.lit(None, pl.String).alias(MALFORMED), ITEM_ID, CATEGORY)
    return found.sort(ROW).collect(engine="streaming").lazy()


def _is_published_log(rows: pl.LazyFrame) -> bool:
    """Whether most of the first times lie in the days of the published log."""
    seconds = rows.head(_SAMPLE).select(pl.col(TIMESTAMP_MS).cast(pl.Int64, strict=False))
    inside = seconds.select(_is_inside(pl.col(TIMESTAMP_MS)).mean()).collect().item()
    return inside is not None and inside > 0.5


def _outside_the_log() -> pl.Expr:
    seconds = pl.col(TIMESTAMP_MS).cast(pl.Int64, strict=False)
    reason = pl.format("its time {} is outside the days of the log, 2017-11-25 to 2017-12-03", seconds)
    return pl.when(~_is_inside(seconds)).then(reason)


def _is_inside(seconds: pl.Expr) -> pl.Expr:
    return seconds.is_between(_FIRST_SECOND, _END_SECOND, closed="left")


def _not_an_integer(name: str) -> pl.Expr:
    wrong = pl.col(name).is_not_null() & pl.col(name).cast(pl.Int64, strict=False).is_null()
    return pl.when(wrong).then(pl.format(f"{name} '{{}}' is not an integer", name))

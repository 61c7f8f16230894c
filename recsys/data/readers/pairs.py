"""Reader of `user item` lines, as SASRec publishes its sets: the order of lines is the order of events."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.columns import ITEM_ID, USER_ID
from recsys.data.readers.raw import LINE, MALFORMED, ROW, TEXT, RawData, RawTable, ReaderOptions
from recsys.data.readers.text import TextFile


def read_pairs(path: Path, options: ReaderOptions) -> RawData:
    """Two ids a line with blanks or a tab between them, no header."""
    parts = pl.col(TEXT).str.strip_chars().str.replace_all("\t", " ", literal=True).str.splitn(" ", 2)
    user = parts.struct.field("field_0")
    item = parts.struct.field("field_1").str.strip_chars_start()
    wrong = item.is_null() | item.str.contains(" ", literal=True)
    frame = (
        TextFile.open(path)
        .lines()
        .with_columns(user.alias(USER_ID), item.alias(ITEM_ID), wrong.alias("wrong"))
        .select(
            ROW,
            LINE,
            TEXT,
            pl.coalesce(MALFORMED, pl.when("wrong").then(pl.lit("it is not two ids with a blank between"))).alias(
                MALFORMED
            ),
            USER_ID,
            ITEM_ID,
        )
    )
    return RawData(RawTable(path, frame))

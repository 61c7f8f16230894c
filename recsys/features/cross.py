"""Cross features, one class a kind with both of its encodings: a new kind is a class and a line below."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import ITEM_ID
from recsys.features.definition import CrossFeature, OverlapFeature
from recsys.features.values import missing_expression
from recsys.types import Offsets, Rows, offsets_of

WORD_BITS: Final = 64


class CrossEncoding(Protocol):
    """The value of a (user, candidate) pair before it goes into a bucket; NaN = missing."""

    def __init__(self, feature: CrossFeature, items: pl.DataFrame) -> None:
        """Prepares the catalogue, whose row order is that of the rows in `online`."""
        ...

    def online(self, history: Rows, candidates: Rows) -> NDArray[np.float64]:
        """Values (C,) for one user: catalogue rows of the history (oldest to newest) and the candidates."""
        ...

    @staticmethod
    def offline(feature: CrossFeature, pairs: pl.LazyFrame, items: pl.LazyFrame) -> NDArray[np.float64]:
        """Values (T,) for many users: item ids in the list columns `history` and `candidates`."""
        ...


class Overlap:
    """How many items of the newest history share a value with the candidate (OverlapFeature).

    Online: every history item is one bit; each value that the history holds has a bit set of the
    items that hold it; a candidate's answer is the bit count of the union over its values.
    """

    def __init__(self, feature: OverlapFeature, items: pl.DataFrame) -> None:
        self._length = feature.length
        self._values, self._offsets = _value_lists(items, feature.column)

    def online(self, history: Rows, candidates: Rows) -> NDArray[np.float64]:
        """See CrossEncoding."""
        newest = history[-self._length :]
        if not len(newest) or not len(candidates):
            return np.full(len(candidates), np.nan)
        held, bits = self._bit_sets(newest)
        values, starts = _gather(self._values, self._offsets, candidates)
        place = np.searchsorted(held, values)
        place[held[np.minimum(place, len(held) - 1)] != values] = 0
        shared = np.bitwise_or.reduceat(bits[place], starts[:-1], axis=0)
        counts: NDArray[np.float64] = np.bitwise_count(shared).sum(axis=1, dtype=np.float64)
        counts[np.diff(starts) == 1] = np.nan
        return counts

    def _bit_sets(self, newest: Rows) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """The distinct values of the history, ascending, and which of its items hold each.

        Value 0 stands for none: its bit set is empty.
        """
        values, starts = _gather(self._values, self._offsets, newest)
        held, local = np.unique(values, return_inverse=True)
        words = -(-len(newest) // WORD_BITS)
        holds = np.zeros((len(held), words * WORD_BITS), np.bool_)
        holds[local, np.repeat(np.arange(len(newest)), np.diff(starts))] = True
        holds[0] = False
        return held, np.packbits(holds, axis=1).view(np.uint64)

    @staticmethod
    def offline(feature: OverlapFeature, pairs: pl.LazyFrame, items: pl.LazyFrame) -> NDArray[np.float64]:
        """See CrossEncoding."""
        values = _one_row_a_value(items.select(ITEM_ID, pl.col(feature.column).alias("value")))
        users = pairs.with_row_index("user")
        candidates = _one_row_each(users, pl.col("candidates"), "pair")
        history = _one_row_each(users, pl.col("history").list.tail(feature.length), "position")
        shared = (
            candidates.join(values, on=ITEM_ID)
            .join(history.join(values, on=ITEM_ID), on=["user", "value"])
            .select("pair", "position")
            .unique()
            .group_by("pair")
            .agg(pl.len().cast(pl.Float64).alias("shared"))
        )
        comparable = candidates.join(values, on=ITEM_ID, how="semi").join(history, on="user", how="semi")
        counts = comparable.join(shared, on="pair", how="left").select("pair", pl.col("shared").fill_null(0.0))
        answer = candidates.join(counts, on="pair", how="left").sort("pair")
        return answer.select(pl.col("shared").fill_null(np.nan)).collect()["shared"].to_numpy()


CROSS_ENCODINGS: Final[dict[str, type[CrossEncoding]]] = {"overlap": Overlap}
"""Kind of a cross feature to its encodings."""


def _one_row_a_value(items: pl.LazyFrame) -> pl.LazyFrame:
    """Explodes the column `value` where it holds lists and drops missing values; order is kept."""
    if isinstance(items.collect_schema()["value"], pl.List | pl.Array):
        items = items.explode("value")
    dtype = items.collect_schema()["value"]
    there = items.filter(~missing_expression(pl.col("value"), dtype))
    return there.with_columns(pl.col("value").cast(pl.String)) if dtype in (pl.Categorical, pl.Enum) else there


def _one_row_each(users: pl.LazyFrame, ids: pl.Expr, index: str) -> pl.LazyFrame:
    """(index, user, item_id): the items of a list column, in order, numbered over all users."""
    lists = users.select("user", ids.alias(ITEM_ID)).filter(pl.col(ITEM_ID).list.len() > 0)
    return lists.explode(ITEM_ID).with_row_index(index)


def _value_lists(items: pl.DataFrame, column: str) -> tuple[NDArray[np.int32], Offsets]:
    """The value codes of every row of the catalogue, end to end, each list led by a 0."""
    rows = items.lazy().select(pl.int_range(pl.len()).alias("row"), pl.col(column).alias("value"))
    pairs = _one_row_a_value(rows).collect()
    distinct = pairs["value"].unique()
    codes = pairs["value"].replace_strict(distinct, np.arange(1, len(distinct) + 1), return_dtype=pl.Int32)
    counts = np.bincount(pairs["row"].to_numpy(), minlength=len(items))
    offsets = offsets_of(counts + 1)
    values = np.zeros(offsets[-1], np.int32)
    leading = np.zeros(len(values), np.bool_)
    leading[offsets[:-1]] = True
    values[~leading] = codes.to_numpy()
    return values, offsets


def _gather(values: NDArray[np.int32], offsets: Offsets, rows: Rows) -> tuple[NDArray[np.int32], Offsets]:
    """The lists of some rows end to end, and their offsets."""
    begin = offsets[rows]
    starts = offsets_of(offsets[rows + 1] - begin)
    place = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], np.diff(starts))
    return values[place], starts

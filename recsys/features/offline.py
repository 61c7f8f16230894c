"""The polars encoder: whole tables of raw values to arrays of codes, for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from recsys.columns import ITEM_ID
from recsys.errors import DataError
from recsys.features.buckets import bucket_codes
from recsys.features.cross import CROSS_ENCODINGS
from recsys.features.definition import (
    HISTORY,
    HISTORY_AGE,
    AttributeFeature,
    EntitySide,
    IdFeature,
    ListFeature,
    NumericFeature,
)
from recsys.features.feature_set import FeatureSet
from recsys.features.padding import ages, newest, pad_right
from recsys.features.values import canonical_expression, missing_expression, number_expression
from recsys.features.vocabulary import Codes, Vocabulary
from recsys.types import offsets_of


def encode_items(features: FeatureSet, items: pl.DataFrame | pl.LazyFrame) -> dict[str, Codes]:
    """Codes of the item side, one row an item: (N,) a scalar feature, (N, n) a list of length n.

    Raises:
        DataError: when a column is missing.
    """
    return _encode_side(features, "item", items)


def encode_users(features: FeatureSet, users: pl.DataFrame | pl.LazyFrame) -> dict[str, Codes]:
    """Codes of the user side without the history, one row a user: (B,) or (B, n).

    Raises:
        DataError: when a column is missing.
    """
    return _encode_side(features, "user", users)


def encode_histories(
    features: FeatureSet, histories: pl.DataFrame | pl.LazyFrame, column: str = HISTORY
) -> dict[str, Codes]:
    """`history` and `history_age`, each (B, L), left-padded with 0.

    Args:
        features: a feature set with a history.
        histories: one row a user.
        column: list column with the item ids that the user clicked or converted, oldest to newest;
            nulls are skipped, an id unseen in training keeps its place with code 1.

    Raises:
        DataError: when the column is missing or the feature set has no history.
    """
    field = features.history
    if field is None:
        raise DataError("the feature set has no history; add HistoryFeature to its definition")
    frame = _select(histories, [column])
    lists = frame[column].cast(pl.List(pl.Int64)).list.drop_nulls()
    offsets = offsets_of(lists.list.len().fill_null(0).to_numpy())
    ids = lists.filter(lists.list.len() > 0).explode().rename(ITEM_ID)
    kept, there = newest(ids.to_numpy(), offsets, field.length)
    out = np.zeros(there.shape, np.int32)
    out[there] = _vocabulary_codes(pl.Series(ITEM_ID, kept, pl.Int64), features.items)
    return {HISTORY: out, HISTORY_AGE: ages(there)}


def encode_cross(
    features: FeatureSet,
    pairs: pl.DataFrame | pl.LazyFrame,
    items: pl.DataFrame | pl.LazyFrame,
    *,
    history: str = HISTORY,
    candidates: str = "candidates",
) -> dict[str, Codes]:
    """Codes of the cross side, (T,) a feature: candidates of all users end to end.

    Args:
        features: the feature set.
        pairs: one row a user, with two list columns of item ids.
        items: attributes of every item that the lists name.
        history: column of the history, oldest to newest.
        candidates: column of the candidates.

    Raises:
        DataError: when a column is missing.
    """
    lists = _select(pairs, [history, candidates]).select(
        pl.col(history).cast(pl.List(pl.Int64)).list.drop_nulls().fill_null([]).alias("history"),
        pl.col(candidates).cast(pl.List(pl.Int64)).fill_null([]).alias("candidates"),
    )
    catalogue = items.lazy()
    return {
        f.name: bucket_codes(CROSS_ENCODINGS[f.kind].offline(f, lists.lazy(), catalogue), features.edges[f.name])
        for f in features.definition.cross
    }


def _encode_side(features: FeatureSet, side: EntitySide, frame: pl.DataFrame | pl.LazyFrame) -> dict[str, Codes]:
    wanted = [f for f in features.definition.features if isinstance(f, IdFeature | AttributeFeature) and f.side == side]
    columns = _select(frame, list(dict.fromkeys(f.column for f in wanted)))
    return {f.name: _encode_column(features, f, columns[f.column]) for f in wanted}


def _encode_column(features: FeatureSet, feature: IdFeature | AttributeFeature, column: pl.Series) -> Codes:
    if isinstance(feature, NumericFeature):
        return bucket_codes(_numbers(column), features.edges[feature.name])
    vocabulary = features.vocabularies[feature.name]
    if isinstance(feature, ListFeature):
        return _list_codes(column, vocabulary, feature.length)
    return _vocabulary_codes(column, vocabulary)


def _numbers(column: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    frame = column.rename("value").to_frame()
    return frame.select(number_expression(pl.col("value"), column.dtype).fill_null(np.nan).alias("value"))[
        "value"
    ].to_numpy()


def _vocabulary_codes(column: pl.Series, vocabulary: Vocabulary) -> Codes:
    value = pl.col("value")
    missing = missing_expression(value, column.dtype)
    canonical = canonical_expression(value, column.dtype, vocabulary.type)
    frame = column.rename("value").to_frame()
    return frame.with_columns(code=vocabulary.codes_expression(canonical, missing))["code"].to_numpy()


def _list_codes(column: pl.Series, vocabulary: Vocabulary, length: int) -> Codes:
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    if not isinstance(column.dtype, pl.List):
        return pad_right(_vocabulary_codes(column, vocabulary), np.ones(len(column), np.int64), length)
    heads = column.list.head(length)
    lengths = heads.list.len().fill_null(0)
    return pad_right(_vocabulary_codes(heads.filter(lengths > 0).explode(), vocabulary), lengths.to_numpy(), length)


def _select(frame: pl.DataFrame | pl.LazyFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Collects only the columns that are needed.

    Raises:
        DataError: names the first that is missing.
    """
    lazy = frame.lazy()
    there = lazy.collect_schema().names()
    if missing := [name for name in columns if name not in there]:
        raise DataError(f"column {missing[0]!r} is not there; there are: {', '.join(there)}")
    return lazy.select(columns).collect()

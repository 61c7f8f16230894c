"""Attribute columns of items and users: what type the text of a file means."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import polars as pl

from recsys.columns import BID, TITLE
from recsys.data.id_columns import as_integer
from recsys.data.timestamps import dates_as_milliseconds
from recsys.errors import DataError

_LIST_SEPARATOR: Final = "|"
_LIST_SHARE: Final = 0.05
_TRUTH: Final = {"true": True, "false": False}


def type_attributes(
    frame: pl.DataFrame, *, typed: bool, source: str, known: Mapping[str, pl.DataType] = MappingProxyType({})
) -> pl.DataFrame:
    """Gives every attribute column one of Int64, Float64, Boolean, String or a list of these.

    Text becomes the narrowest type that holds all of its values without loss ("007" stays text); a
    column in which at least 5% of the values have a "|" is a list, split there. Dates, typed or as
    text, become Unix milliseconds. A title stays text.

    Args:
        frame: attribute columns only, no ids.
        typed: whether strings are strings by the file's own word, so that they stay so.
        source: the file, for messages.
        known: types that columns must get, where that is settled already.

    Raises:
        DataError: names a column of a type that no feature can be made of, or a value that is not of the known type.
    """
    return pl.DataFrame(
        [
            _as_known(frame[name], known[name], source) if name in known else _typed(frame[name], typed, source)
            for name in frame.columns
        ]
    )


def _as_known(column: pl.Series, kind: pl.DataType, source: str) -> pl.Series:
    """A column as the type that its earlier values have."""
    if isinstance(kind, pl.List) and isinstance(column.dtype, pl.String):
        column = column.str.split(_LIST_SEPARATOR)
    elif isinstance(column.dtype, pl.String) and not isinstance(kind, pl.String):
        column = _parse(column)
    elif isinstance(column.dtype, pl.Datetime | pl.Date):
        column = column.cast(pl.Datetime("ms")).dt.epoch("ms")
    try:
        return column.cast(kind)
    except pl.exceptions.PolarsError:
        example = column.drop_nulls()[0]
        raise DataError(
            f"{source}: column {column.name!r} is {column.dtype} here, such as {example!r}, and {kind} in the dataset; "
            "give values of that type, or leave the column out"
        ) from None


def _typed(column: pl.Series, typed: bool, source: str) -> pl.Series:
    kind = column.dtype
    if isinstance(kind, pl.String):
        if column.name == BID:
            return _numbers(column, source)
        return column if typed or column.name == TITLE else _parse(column)
    if isinstance(kind, pl.List | pl.Array):
        return column.cast(pl.List(_plain_type(kind.inner, column.name, source)))  # type: ignore[arg-type]
    if isinstance(kind, pl.Datetime | pl.Date):
        return column.cast(pl.Datetime("ms")).dt.epoch("ms")
    return column.cast(_plain_type(kind, column.name, source))


def _plain_type(kind: pl.DataType, name: str, source: str) -> pl.DataType:
    if kind.is_integer():
        return pl.Int64()
    if kind.is_float() or kind.is_decimal():
        return pl.Float64()
    if isinstance(kind, pl.Boolean):
        return pl.Boolean()
    if isinstance(kind, pl.String | pl.Categorical | pl.Enum | pl.Null):
        return pl.String()
    raise DataError(f"{source}: column {name!r} is {kind}, which no feature can be made of; leave it out of the map")


def _numbers(column: pl.Series, source: str) -> pl.Series:
    parsed = column.cast(pl.Float64, strict=False)
    if parsed.null_count() > column.null_count():
        first = column.filter(parsed.is_null() & column.is_not_null())[0]
        raise DataError(f"{source}: {column.name} {first!r} is not a number")
    return parsed


def _parse(column: pl.Series) -> pl.Series:
    """A column of unparsed text as the narrowest type that holds it."""
    given = len(column) - column.null_count()
    if not given:
        return column
    for parsed in (_integers(column), column.cast(pl.Float64, strict=False), _truths(column)):
        if len(parsed) - parsed.null_count() == given and not _has_unusual_zero(column, parsed):
            return parsed
    if (moments := dates_as_milliseconds(column)) is not None:
        return moments
    with_bar = int(column.str.contains(_LIST_SEPARATOR, literal=True).sum())
    if column.name != TITLE and with_bar >= _LIST_SHARE * given:
        return column.str.split(_LIST_SEPARATOR)
    return column


def _integers(column: pl.Series) -> pl.Series:
    return column.to_frame().select(as_integer(column.name, column.dtype).alias(column.name)).to_series()


def _has_unusual_zero(column: pl.Series, parsed: pl.Series) -> bool:
    """Whether numbers are written as codes are ("007"), whose zeros a number would lose."""
    return parsed.dtype.is_float() and bool(column.str.contains(r"^[+-]?0\d").any())


def _truths(column: pl.Series) -> pl.Series:
    return column.str.to_lowercase().replace_strict(_TRUTH, default=None, return_dtype=pl.Boolean)

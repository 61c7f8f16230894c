"""The canonical form of raw values, once for one value (serving) and once for a column (training).

A profile comes as JSON, a column as Arrow; the same fact must become the same code. Missing is
None, NaN and the empty string (a CSV cannot tell them apart), in every kind of feature.

- integer: booleans count as 0 and 1, floats when they are whole, strings when they spell an integer
  or a boolean; anything else is a value that no vocabulary holds, hence unseen.
- string: integers as decimal digits, booleans as "true" and "false", whole floats as integers, other
  floats as Python writes them.
- number: float64; what cannot be read as one is missing. Infinities are numbers: they fall in the
  first and the last bucket.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from math import inf, isnan, nan
from typing import Any, Final

import numpy as np
import polars as pl

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?", re.ASCII)
_BOOLEANS: Final = {"true": 1, "false": 0}
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_MAX_INT: Final = 2**63 - 1


class ValueType(StrEnum):
    """What the values of a vocabulary are."""

    INTEGER = "integer"
    STRING = "string"

    @property
    def dtype(self) -> type[pl.Int64] | type[pl.String]:
        """The polars type of the canonical form."""
        return pl.Int64 if self is ValueType.INTEGER else pl.String


def is_missing(value: Any) -> bool:
    """Whether a raw value says nothing."""
    if isinstance(value, str):
        return not value
    return value is None or (isinstance(value, float | np.floating | Decimal) and isnan(value))


def to_integer(value: Any) -> int | None:
    """Canonical form for an integer vocabulary; None = no integer."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float | Decimal):
        number = float(value)
        return int(number) if number.is_integer() else None
    if isinstance(value, str):
        if _INTEGER.fullmatch(value):
            return int(value.partition(".")[0])
        return _BOOLEANS.get(value.lower())
    return None


def to_string(value: Any) -> str | None:
    """Canonical form for a string vocabulary; None = nothing that has one."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return None


CANONICAL: Final[dict[ValueType, Callable[[Any], int | str | None]]] = {
    ValueType.INTEGER: to_integer,
    ValueType.STRING: to_string,
}


def to_number(value: Any) -> float:
    """Canonical form for buckets; NaN = missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, list | tuple | dict | bytes):
        return nan
    if isinstance(value, dt.date):
        return _milliseconds(value)
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf
    except (TypeError, ValueError):
        return nan


def _milliseconds(value: dt.date) -> float:
    moment = value if isinstance(value, dt.datetime) else dt.datetime(value.year, value.month, value.day)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return float((aware - _EPOCH) // _MILLISECOND)


def missing_expression(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """`is_missing` of a column."""
    if dtype.is_float():
        return column.is_null() | column.is_nan()
    if _is_text(dtype):
        return column.is_null() | (column.cast(pl.String) == "")
    return column.is_null()


def canonical_expression(column: pl.Expr, dtype: pl.DataType, kind: ValueType) -> pl.Expr:
    """`to_integer` or `to_string` of a column; null = missing or without canonical form."""
    if dtype.is_decimal():
        column, dtype = column.cast(pl.Float64), pl.Float64()
    if kind is ValueType.STRING and (_is_text(dtype) or dtype.is_integer() or dtype == pl.Boolean):
        return column.cast(pl.String)
    if kind is ValueType.INTEGER and (dtype.is_integer() or dtype == pl.Boolean):
        return column.cast(pl.Int64, strict=False)
    if kind is ValueType.INTEGER and dtype.is_float():
        return _whole(column.cast(pl.Float64))
    if dtype.is_float() or _is_text(dtype):
        return _by_value(column, dtype, kind.dtype(), CANONICAL[kind])
    return pl.repeat(None, pl.len(), dtype=kind.dtype())


def number_expression(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """`to_number` of a column as Float64; null or NaN = missing."""
    if dtype.is_numeric() or dtype == pl.Boolean:
        return column.cast(pl.Float64)
    if dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("ms")).cast(pl.Int64).cast(pl.Float64)
    if _is_text(dtype):
        return _by_value(column, dtype, pl.Float64(), to_number)
    return pl.repeat(None, pl.len(), dtype=pl.Float64())


def _is_text(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def _whole(number: pl.Expr) -> pl.Expr:
    """Float64 to Int64 where it is whole and fits, else null."""
    integer = number.cast(pl.Int64, strict=False)
    return pl.when(integer.cast(pl.Float64) == number).then(integer)


def _by_value(column: pl.Expr, dtype: pl.DataType, out: pl.DataType, form: Callable[[Any], Any]) -> pl.Expr:
    """Applies the scalar form to each distinct value: for columns that are not of the natural type."""

    def convert(series: pl.Series) -> pl.Series:
        distinct = series.unique()
        forms = [None if value is None else form(value) for value in distinct.to_list()]
        if out == pl.Int64:
            forms = [None if value is None or abs(value) > _MAX_INT else value for value in forms]
        return series.replace_strict(distinct, pl.Series(forms, dtype=out), default=None, return_dtype=out)

    plain = column.cast(pl.String) if _is_text(dtype) else column.cast(pl.Float64)
    return plain.map_batches(convert, return_dtype=out, is_elementwise=False)

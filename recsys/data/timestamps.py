"""Times as a source writes them, turned into Unix milliseconds: numbers of any usual unit, or dates in UTC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import polars as pl

from recsys.data.checks import Check
from recsys.data.readers.raw import MALFORMED, RawTable
from recsys.errors import DataError

_UNITS: Final = (
    ("seconds", 1e11, 1e3),
    ("milliseconds", 1e14, 1.0),
    ("microseconds", 1e17, 1e-3),
    ("nanoseconds", math.inf, 1e-6),
)
"""Name, bound on the magnitude of a plausible value (the year 5138), and factor to milliseconds."""
_LATEST_MS: Final = 1e14
_FORMATS: Final = (
    "%Y-%m-%d %H:%M:%S%.f%z",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M%z",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d %H:%M:%S",
)
_DATES: Final = ("%Y-%m-%d", "%Y/%m/%d")
_SAMPLE: Final = 1_000


@dataclass(frozen=True, slots=True)
class TimePlan:
    """How a time column is read.

    Attributes:
        unit: what the numbers count, or "dates".
        factor: from that unit to milliseconds.
        clean: whether every value has been seen to be a plausible whole number: nothing is left to check.
    """

    unit: str
    factor: float = 1.0
    clean: bool = False

    def milliseconds(self, column: str, kind: pl.DataType) -> pl.Expr:
        """The column as Unix milliseconds, Int64, null where a value is missing or not a time."""
        value = pl.col(column)
        if isinstance(kind, pl.Datetime | pl.Date):
            return _epoch_ms(value)
        if self.unit == "dates":
            return _parse_dates(value)
        whole = value.cast(pl.Int64, strict=False)
        if self.clean:
            return self._scaled(whole)
        number = value.cast(pl.Float64, strict=False) * self.factor
        rounded = number.round().cast(pl.Int64, strict=False)
        exact = rounded if kind.is_float() else pl.coalesce(self._scaled(whole), rounded)
        return pl.when(number.abs() < _LATEST_MS).then(exact)

    def _scaled(self, whole: pl.Expr) -> pl.Expr:
        return whole * int(self.factor) if self.factor >= 1 else whole // round(1 / self.factor)

    def checks(self, column: str, kind: pl.DataType, *, required: bool = True) -> list[Check]:
        """What may be wrong with a raw value of this column."""
        if self.clean:
            return []
        empty = Check(pl.col(column).is_null(), pl.lit(f"{column} is empty"))
        wrong = pl.col(column).is_not_null() & self.milliseconds(column, kind).is_null()
        reason = pl.format(f"{column} '{{}}' is not a time", pl.col(column).cast(pl.String))
        return [empty, Check(wrong, reason)] if required else [Check(wrong, reason)]


def plan_times(table: RawTable, column: str) -> TimePlan:
    """Looks at a time column and decides what it counts: the unit that most values are plausible in.

    Raises:
        DataError: for a type that times cannot have.
    """
    kind = table.columns()[column]
    rows = table.frame.filter(pl.col(MALFORMED).is_null()).select(column)
    if isinstance(kind, pl.Datetime | pl.Date):
        return TimePlan("dates")
    if not (kind.is_numeric() or isinstance(kind, pl.String)):
        raise DataError(f"{table.file}: column {column!r} is {kind}; times are numbers, dates or their text")
    if isinstance(kind, pl.String) and _mostly_dates(rows, column):
        return TimePlan("dates")
    whole = pl.col(column).cast(pl.Int64, strict=False).count().alias("whole")
    size = pl.col(column).cast(pl.Float64, strict=False).abs()
    below = [(size < bound).sum().alias(name) for name, bound, _ in _UNITS]
    total, all_whole, *counts = rows.select(pl.len(), whole, *below).collect(engine="streaming").row(0)
    numbers = counts[-1]
    for (name, _, factor), count in zip(_UNITS, counts, strict=True):
        if 2 * count >= numbers:
            clean = count == total and all_whole == total and not kind.is_float()
            return TimePlan(name, factor, clean)
    raise AssertionError("the widest unit takes every number")


def dates_as_milliseconds(text: pl.Series) -> pl.Series | None:
    """A column of text as Unix milliseconds, Int64, where every value is a date; else None."""
    value = pl.col(text.name)
    for rows in (text.drop_nulls().head(_SAMPLE), text):  # most text is seen to be none at little cost
        moments = rows.to_frame().select(_parse_dates(value)).to_series()
        if moments.null_count() > rows.null_count():
            return None
    return moments


def _mostly_dates(values: pl.LazyFrame, column: str) -> bool:
    sample = values.filter(pl.col(column).is_not_null()).head(_SAMPLE)
    number = pl.col(column).cast(pl.Float64, strict=False)
    dates, numbers = sample.select(_parse_dates(pl.col(column)).count().alias("dates"), number.count()).collect().row(0)
    return bool(dates > numbers)


def _parse_dates(text: pl.Expr) -> pl.Expr:
    """ISO 8601 and its relatives; a time without a zone is UTC."""
    plain = text.str.strip_chars().str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    times = [
        _epoch_ms(plain.str.to_datetime(form, time_unit="ms", strict=False, time_zone="UTC" if "%z" in form else None))
        for form in _FORMATS
    ]
    days = [_epoch_ms(plain.str.to_date(form, strict=False).cast(pl.Datetime("ms"))) for form in _DATES]
    return pl.coalesce(*times, *days)


def _epoch_ms(moment: pl.Expr) -> pl.Expr:
    return moment.dt.epoch("ms")

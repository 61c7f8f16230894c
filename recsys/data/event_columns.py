"""The columns of an event beside its ids: when it was, what it was, what it was worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from recsys.columns import EVENT, TIMESTAMP_MS, VALUE, EventType
from recsys.data.checks import Check
from recsys.data.dataset import TimeKind
from recsys.data.readers.raw import ORDER, RawTable
from recsys.data.timestamps import plan_times
from recsys.errors import UsageError


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """How one raw column is checked, and what takes its place."""

    checks: list[Check]
    value: pl.Expr


@dataclass(frozen=True, slots=True)
class TimeRule:
    """How events are put in time.

    Attributes:
        kind: real times, or only an order.
        note: how times were read, for people.
        rules: of the column that says so; none where the order of the rows is all there is.
    """

    kind: TimeKind
    note: str
    rules: tuple[ColumnRule, ...] = ()


def time_rule(table: RawTable) -> TimeRule:
    """How the events of a table are put in time: by timestamp_ms, by `order`, or by the order of rows."""
    kinds = table.columns()
    if TIMESTAMP_MS in kinds:
        plan, kind = plan_times(table, TIMESTAMP_MS), kinds[TIMESTAMP_MS]
        value = plan.milliseconds(TIMESTAMP_MS, kind).alias(TIMESTAMP_MS)
        return TimeRule("real", plan.unit, (ColumnRule(plan.checks(TIMESTAMP_MS, kind), value),))
    if ORDER in kinds:
        target = pl.Int64() if kinds[ORDER].is_integer() else pl.Float64()
        return TimeRule("order", "the order that its column gives", (_number_rule(ORDER, target, required=True),))
    return TimeRule("order", "the order of rows")


def column_rules(table: RawTable, event_names: Mapping[str, str], flag: str = "--events") -> list[ColumnRule]:
    """Rules of the type and the value of an event, where the table has them.

    Args:
        table: raw events.
        event_names: the source's word → impression, click or conversion.
        flag: what of a command line gives these names, for messages.

    Raises:
        UsageError: when a name is mapped to something else.
    """
    kinds = table.columns()
    rules = []
    if EVENT in kinds:
        rules.append(_type_rule(event_names, flag))
    if VALUE in kinds:
        rules.append(_number_rule(VALUE, pl.Float32(), required=False))
    return rules


def _type_rule(event_names: Mapping[str, str], flag: str) -> ColumnRule:
    known = {kind.value: kind.value for kind in EventType}
    for word, meaning in event_names.items():
        if meaning not in known:
            raise UsageError(f"{flag} {word}={meaning}: an event is one of {', '.join(EventType)}")
    names = known | {word.lower(): meaning for word, meaning in event_names.items()}
    given = pl.col(EVENT).cast(pl.String).str.strip_chars().str.to_lowercase()
    # replace_strict would hold all rows in memory
    typed = pl.coalesce(pl.when(given == word).then(pl.lit(meaning)) for word, meaning in names.items())
    reason = pl.format(f"event '{{}}' is none of {', '.join(names)} ({flag} names others)", pl.col(EVENT))
    empty = Check(pl.col(EVENT).is_null(), pl.lit("event is empty"))
    return ColumnRule([empty, Check(typed.is_null(), reason)], typed.alias(EVENT))


def _number_rule(column: str, target: pl.DataType, *, required: bool) -> ColumnRule:
    number = pl.col(column).cast(target, strict=False)
    if target.is_float():
        number = pl.when(number.is_not_nan()).then(number).alias(column)
    empty = Check(pl.col(column).is_null(), pl.lit(f"{column} is empty"))
    reason = pl.format(f"{column} '{{}}' is not a number", pl.col(column).cast(pl.String))
    wrong = Check(pl.col(column).is_not_null() & number.is_null(), reason)
    return ColumnRule([empty, wrong] if required else [wrong], number)

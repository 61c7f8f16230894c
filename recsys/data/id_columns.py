"""What the ids of a source are: integers that stay as they are, or strings that are hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from recsys.columns import CLICK_ID, EVENT_ID
from recsys.data.checks import Check
from recsys.data.dataset import IdKind
from recsys.data.readers.raw import MALFORMED, ROW, RawTable
from recsys.data.string_ids import KEY, hash_series, key_dictionary
from recsys.errors import DataError

IdPolicy = Literal["auto", "integer", "string"]

_MOSTLY: Final = 0.5
_BAD_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class IdPlan:
    """How the ids of one kind (users, items, events) are read.

    Attributes:
        kind: integers as they are, or strings that are hashed.
        dictionary: (id column, key) sorted by id; None for integers, and for strings that nobody asks back for.
        clean: whether every value has been seen to be there and of its kind: nothing is left to check.
    """

    kind: IdKind
    dictionary: pl.DataFrame | None = None
    clean: bool = False

    def encode(self, frame: pl.LazyFrame, column: str) -> pl.LazyFrame:
        """`frame` with `column` as Int64 ids, null where the value is missing or not an id."""
        present = frame.collect_schema()
        if self.kind == "integer":
            kind = present[column]
            ids = pl.col(column).cast(pl.Int64, strict=False) if self.clean else as_integer(column, kind)
            return frame.with_columns(ids.alias(column))
        keys = frame.with_columns(as_text(column, present[column]).alias(column))
        if self.dictionary is None:
            hashed = pl.col(column).map_batches(hash_series, return_dtype=pl.Int64(), is_elementwise=True)
            return keys.with_columns(hashed)
        dictionary = self.dictionary.lazy().rename({self.dictionary.columns[0]: "__id"})
        joined = keys.join(dictionary, left_on=column, right_on=KEY, how="left", maintain_order="left")
        return joined.with_columns(pl.col("__id").alias(column)).select(present.names())

    def checks(self, column: str, kind: pl.DataType, *, required: bool = True) -> list[Check]:
        """What may be wrong with a raw value of this column."""
        if self.clean:
            return []
        text = as_text(column, kind)
        checks = [Check(text.is_null(), pl.lit(f"{column} is empty"))] if required else []
        if self.kind == "integer":
            wrong = text.is_not_null() & as_integer(column, kind).is_null()
            checks.append(Check(wrong, pl.format(f"{column} '{{}}' is not an integer", text)))
        return checks


@dataclass(frozen=True, slots=True)
class IdCounts:
    """What a look at the id columns of one table has shown.

    Attributes:
        total: rows of the table.
        rows: those that could be taken apart.
        given: for each id column, how many of these have a value.
        integers: for each id column, how many of these values are integers.
        end: bound on the numbers of the rows; above `total` where a file has blank lines.
    """

    total: int
    rows: int
    given: Mapping[str, int]
    integers: Mapping[str, int]
    end: int


def count_ids(table: RawTable, columns: Sequence[str]) -> IdCounts:
    """Looks at all id columns of a table in one pass.

    Raises:
        DataError: for a column of a type that ids cannot have.
    """
    kinds = table.columns()
    sound = pl.col(MALFORMED).is_null()
    exprs = [pl.len().alias("total"), sound.sum().alias("rows"), pl.col(ROW).max().alias("last")]
    for column in columns:
        exprs.append((sound & as_text(column, kinds[column]).is_not_null()).sum().alias(f"given_{column}"))
        exprs.append((sound & as_integer(column, kinds[column]).is_not_null()).sum().alias(f"integers_{column}"))
    found = table.frame.select(exprs).collect(engine="streaming").row(0, named=True)
    return IdCounts(
        found["total"],
        found["rows"],
        {column: found[f"given_{column}"] for column in columns},
        {column: found[f"integers_{column}"] for column in columns},
        0 if found["last"] is None else found["last"] + 1,
    )


def plan_ids(
    tables: Sequence[tuple[RawTable, str, IdCounts]], id_column: str, policy: IdPolicy, max_rejected: float
) -> IdPlan:
    """Decides what the ids of one kind are, from every value there is.

    With "auto" they are integers when (nearly) all look like integers written the usual way, and
    strings when most do not. What lies between is not guessed. Ids of events have no dictionary, which would be
    as large as the events: of two whose hashes are equal, the later counts as a repetition.

    Args:
        tables: where the ids stand: a table, the column's name, and what a look at it has shown.
        id_column: what they identify, for messages and for the dictionary.
        policy: what the user said they are.
        max_rejected: share of rows that may be rejected for not being integers.

    Raises:
        DataError: when the ids are neither the one nor the other, or two strings have the same hash.
    """
    rows = sum(counts.rows for _, _, counts in tables)
    given = sum(counts.given[column] for _, column, counts in tables)
    integers = sum(counts.integers[column] for _, column, counts in tables)
    kind = policy if policy != "auto" else _decide(given, integers, max_rejected)
    if kind is None:
        raise DataError(
            f"{id_column}: {given - integers:,} of {given:,} values are not integers, such as "
            f"{', '.join(map(repr, _not_integers(tables)))}; correct them, or say --ids string to take ids as text"
        )
    if kind == "integer":
        return IdPlan("integer", clean=integers == rows)
    if id_column in (EVENT_ID, CLICK_ID):
        return IdPlan("string", clean=given == rows)
    keys = [
        _well_formed(table).select(as_text(column, table.columns()[column]).alias(KEY)) for table, column, _ in tables
    ]
    distinct = pl.concat(keys).unique().collect(engine="streaming")[KEY]
    return IdPlan("string", key_dictionary(distinct, id_column), clean=given == rows)


def as_text(column: str, kind: pl.DataType) -> pl.Expr:
    """An id column as text.

    Raises:
        DataError: for a type that ids cannot have.
    """
    value = pl.col(column)
    if isinstance(kind, pl.String):
        return value
    if kind.is_integer() or isinstance(kind, pl.Categorical | pl.Enum):
        return value.cast(pl.String)
    if kind.is_float():
        return pl.coalesce(_whole(value).cast(pl.String), value.cast(pl.String))
    raise DataError(f"column {column!r} is {kind}; ids are integers or strings")


def as_integer(column: str, kind: pl.DataType) -> pl.Expr:
    """An id column as Int64, null where it is not an integer in the usual notation ("7", not "007")."""
    value = pl.col(column)
    if kind.is_integer():
        return value.cast(pl.Int64, strict=False)
    if kind.is_float():
        return _whole(value)
    text = as_text(column, kind)
    unusual = (text.str.starts_with("0") & (text != "0")) | text.str.starts_with("-0") | text.str.starts_with("+")
    return pl.when(~unusual).then(text.cast(pl.Int64, strict=False))


def _whole(value: pl.Expr) -> pl.Expr:
    return pl.when(value == value.floor()).then(value.cast(pl.Int64, strict=False))


def _decide(given: int, integers: int, max_rejected: float) -> IdKind | None:
    """The kind that the ids clearly are; None when they are neither."""
    if given - integers <= max_rejected * given:
        return "integer"
    return "string" if integers < _MOSTLY * given else None


def _well_formed(table: RawTable) -> pl.LazyFrame:
    return table.frame.filter(pl.col(MALFORMED).is_null())


def _not_integers(tables: Sequence[tuple[RawTable, str, IdCounts]]) -> list[str]:
    found: list[str] = []
    for table, column, _ in tables:
        kind = table.columns()[column]
        text = as_text(column, kind)
        bad = _well_formed(table).filter(text.is_not_null(), as_integer(column, kind).is_null())
        found += bad.select(text).head(_BAD_EXAMPLES).collect().to_series().to_list()
    return found[:_BAD_EXAMPLES]

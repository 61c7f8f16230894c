"""Ids of appended rows: integers as the dataset has them, or strings and what their hashes were made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from recsys.columns import ITEM_ID, ITEM_KEY, USER_ID, USER_KEY
from recsys.data.checks import Check
from recsys.data.id_columns import as_integer, as_text
from recsys.data.string_ids import KEY, key_dictionary

KEY_OF: Final = {USER_ID: USER_KEY, ITEM_ID: ITEM_KEY}
"""For an id column, the column that may name the string of which the id is the hash."""

_WHAT: Final = {USER_ID: "user", ITEM_ID: "item"}


@dataclass(frozen=True, slots=True, eq=False)
class NamedIds:
    """How one id column of appended rows is read.

    Attributes:
        rows: the rows, with a column beside for the id that was found, null where there is none.
        checks: what may be wrong with a row.
        value: the id, for the rows that pass.
        keys: dictionary of the strings that rows name, None where ids are integers.
    """

    rows: pl.DataFrame
    checks: list[Check]
    value: pl.Expr
    keys: pl.DataFrame | None


def resolve_ids(rows: pl.DataFrame, column: str, key_column: str | None, dictionary: pl.DataFrame | None) -> NamedIds:
    """Finds the ids of `column`, with the help of a column of keys where there may be one.

    Where a dataset's ids are hashes, a column of text holds the strings themselves; one of integers
    holds hashes, as drained events do, and a hash that is new must be named by its key.

    Args:
        rows: with `column`, `key_column`, or both.
        column: user_id or item_id.
        key_column: the strings of which the ids are hashes; None where a table has no such column.
        dictionary: (id, key) of the dataset, None where its ids are integers.

    Raises:
        DataError: for a type that ids cannot have, or two strings with the same hash.
    """
    kind = rows.schema.get(column, pl.Null())
    key = pl.col(key_column).cast(pl.String) if key_column in rows.columns else pl.lit(None, pl.String)
    if dictionary is None:
        return _integers(rows, column, kind, key)
    if column in rows.columns and not kind.is_integer():
        return _hashes(rows, column, as_text(column, kind), pl.lit(None, pl.Int64), dictionary)
    given = pl.col(column).cast(pl.Int64) if column in rows.columns else pl.lit(None, pl.Int64)
    return _hashes(rows, column, key, given, dictionary)


def _integers(rows: pl.DataFrame, column: str, kind: pl.DataType, key: pl.Expr) -> NamedIds:
    if column not in rows.columns:
        rows, kind = rows.with_columns(pl.lit(None, pl.Int64).alias(column)), pl.Int64()
    text, number = as_text(column, kind), as_integer(column, kind)
    named = pl.format(f"{KEY_OF[column]} '{{}}': the dataset's {_WHAT[column]}s have integer ids", key)
    checks = [
        Check(key.is_not_null(), named),
        Check(text.is_null(), pl.lit(f"{column} is empty")),
        Check(text.is_not_null() & number.is_null(), pl.format(f"{column} '{{}}' is not an integer", text)),
    ]
    return NamedIds(rows, checks, number.alias(column), None)


def _hashes(rows: pl.DataFrame, column: str, key: pl.Expr, given: pl.Expr, dictionary: pl.DataFrame) -> NamedIds:
    key_at, given_at, hash_at = (f"__{part}_{column}" for part in ("key", "given", "hash"))
    rows = rows.with_columns(key.alias(key_at), given.alias(given_at))
    named = key_dictionary(rows[key_at], column)
    hashes = named.rename({column: hash_at, KEY: key_at})
    rows = rows.join(hashes, on=key_at, how="left", maintain_order="left")
    known = pl.concat([dictionary[column], named[column]]).unique().implode()
    unknown = pl.col(hash_at).is_null() & ~pl.col(given_at).is_in(known)
    key_column, what = KEY_OF[column], _WHAT[column]
    other = pl.col(hash_at) != pl.col(given_at)
    checks = [
        Check(pl.col(hash_at).is_null() & pl.col(given_at).is_null(), pl.lit(f"{column} is empty")),
        Check(other, pl.format(f"{key_column} '{{}}' is not what {column} {{}} is the hash of", key_at, given_at)),
        Check(
            unknown,
            pl.format(f"{column} {{}} is no {what} of the dataset, and no {key_column} says its string", given_at),
        ),
    ]
    return NamedIds(rows, checks, pl.coalesce(hash_at, given_at).alias(column), named)

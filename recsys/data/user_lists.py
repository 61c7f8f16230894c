"""A user's own list of users: the ids or keys in a column of a CSV or Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.columns import USER_ID, USER_KEY
from recsys.data.id_columns import as_integer, as_text
from recsys.data.readers.raw import LINE, MALFORMED
from recsys.data.readers.table import open_table
from recsys.data.string_ids import key_dictionary
from recsys.errors import DataError
from recsys.types import Ids


@dataclass(frozen=True, slots=True)
class UserList:
    """Some users.

    Attributes:
        ids: ascending, each once.
        keys: dictionary (user_id, key), sorted by user_id, where they were given by string; else None.
    """

    ids: Ids
    keys: pl.DataFrame | None = None


def read_users(path: Path) -> UserList:
    """The users in the column `user_id` (integers) or `user_key` (strings) of a file; other columns do not matter.

    Raises:
        DataError: for a file without such a column, with both, or without a user; names the first line
            that holds none.
    """
    table = open_table(path)
    kinds = table.columns()
    named = [name for name in (USER_ID, USER_KEY) if name in kinds]
    if len(named) != 1:
        what = f"has both {USER_ID} and {USER_KEY}" if named else f"has the columns {', '.join(kinds)}"
        raise DataError(f"{path} {what}: give one of {USER_ID}, for integers, and {USER_KEY}, for strings")
    column = named[0]
    read = as_integer if column == USER_ID else as_text
    frame = table.frame.select(LINE, MALFORMED, given=as_text(column, kinds[column]), read=read(column, kinds[column]))
    found = frame.collect(engine="streaming")
    wrong = found.filter(pl.col("read").is_null() | pl.col(MALFORMED).is_not_null()).sort(LINE)
    if wrong.height:
        first = wrong.row(0, named=True)
        reason = first[MALFORMED] or ("it is empty" if first["given"] is None else f"{first['given']!r} is no integer")
        hint = f"; the column of string ids is called {USER_KEY}" if column == USER_ID and first["given"] else ""
        raise DataError(f"{path}, line {first[LINE]}, {column}: {reason}{hint}")
    if not found.height:
        raise DataError(f"{path} names no user")
    if column == USER_ID:
        return UserList(found["read"].unique().sort().to_numpy())
    keys = key_dictionary(found["read"], USER_ID)
    return UserList(keys[USER_ID].to_numpy(), keys)

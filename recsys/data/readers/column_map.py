"""Which column of a file is which column of a dataset: as told on the command line, else by common names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from recsys.columns import CLICK_ID, CREATED_MS, EVENT, EVENT_ID, ITEM_ID, TIMESTAMP_MS, TITLE, USER_ID, VALUE
from recsys.data.readers.raw import ORDER
from recsys.errors import DataError, UsageError

EVENT_COLUMNS: Final = (USER_ID, ITEM_ID, TIMESTAMP_MS, ORDER, EVENT, EVENT_ID, CLICK_ID, VALUE)
"""What `--columns` may map."""

_ALIASES: Final = {
    USER_ID: ("userid", "user", "uid", "customerid", "visitorid"),
    ITEM_ID: ("itemid", "item", "iid", "movieid", "movie", "articleid", "productid"),
    TIMESTAMP_MS: ("timestampms", "timestamp", "ts", "time", "datetime", "date"),
    TITLE: ("title", "movietitle", "name"),
    EVENT: ("event", "eventtype"),
    EVENT_ID: ("eventid",),
    CLICK_ID: ("clickid",),
    VALUE: ("value",),
    ORDER: ("order", "position"),
    CREATED_MS: ("createdms",),
}
"""Common names, in lower case without separators, best first."""


def parse_column_map(
    text: str,
    flag: str,
    allowed: Sequence[str] = (),
    form: str = "dataset_column=file_column, such as user_id=user",
) -> dict[str, str]:
    """Reads `user_id=user,item_id=article`.

    Args:
        text: what the command line gave.
        flag: its name, for messages.
        allowed: the dataset columns that may be mapped; empty for any.
        form: what an assignment should look like, for messages.

    Raises:
        UsageError: for an assignment without "=", a name given twice or one that is not allowed.
    """
    columns: dict[str, str] = {}
    for assignment in filter(None, (part.strip() for part in text.split(","))):
        name, equals, source = (part.strip() for part in assignment.partition("="))
        if not equals or not name or not source:
            raise UsageError(f"{flag} {assignment}: write it as {form}")
        if allowed and name not in allowed:
            raise UsageError(f"{flag} {assignment}: there is no column {name!r}; there are: {', '.join(allowed)}")
        if name in columns:
            raise UsageError(f"{flag}: {name} is given twice")
        columns[name] = source
    return columns


def check_sources(path: Path, present: Iterable[str], columns: Mapping[str, str]) -> None:
    """Refuses a map that names columns the file lacks.

    Raises:
        DataError: names the column and those there are.
    """
    known = list(present)
    for name, source in columns.items():
        if source not in known:
            raise DataError(f"{path}: has no column {source!r} (for {name}); it has: {', '.join(known)}")


def recognise(present: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """The columns among `present` that commonly mean one of `wanted`."""
    found = {}
    for name in wanted:
        by_plain_name = {_plain(column): column for column in reversed(present)}
        for alias in _ALIASES[name]:
            if alias in by_plain_name:
                found[name] = by_plain_name[alias]
                break
    return found


def event_map(path: Path, present: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """A map for events: the given one, else by common names; with ids and a time, or an order.

    Args:
        path: the file, for messages.
        present: its columns.
        columns: what the command line gave.

    Raises:
        UsageError: when it gives both a time and an order.
        DataError: when a column is not there, or none is known to be an id or a time.
    """
    found = dict(columns) or recognise(present, EVENT_COLUMNS)
    if TIMESTAMP_MS in columns and ORDER in columns:
        raise UsageError(f"--columns: {TIMESTAMP_MS}= and {ORDER}= are two times for one event; give one of them")
    check_sources(path, present, found)
    for name in (USER_ID, ITEM_ID):
        if name not in found:
            raise DataError(f"{path}: which column is {name}? Say --columns {name}=…; it has: {', '.join(present)}")
    if TIMESTAMP_MS not in found and ORDER not in found:
        raise DataError(
            f"{path}: which column is the time? Say --columns {TIMESTAMP_MS}=…, or {ORDER}=… for a column that only "
            f"orders a user's events; it has: {', '.join(present)}"
        )
    if TIMESTAMP_MS in found:
        found.pop(ORDER, None)
    return found


def attribute_map(path: Path, present: Sequence[str], id_column: str) -> dict[str, str]:
    """A map for a file of attributes about which nothing was said: its id, its title, the rest by their names.

    Raises:
        DataError: when no column looks like the id.
    """
    wanted = (id_column, TITLE, CREATED_MS) if id_column == ITEM_ID else (id_column,)
    columns = recognise(present, wanted)
    if id_column not in columns:
        plain = next((name for name in present if _plain(name) == "id"), None)
        columns |= {} if plain is None else {id_column: plain}
    if id_column not in columns:
        flag = "--item-columns" if id_column == ITEM_ID else "--user-columns"
        raise DataError(f"{path}: no column looks like {id_column}; name it with {flag} {id_column}=COLUMN")
    taken = set(columns.values())
    return columns | {name: name for name in present if name not in taken}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

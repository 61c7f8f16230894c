"""A dataset on disk: a directory of events, items and users that is written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import polars as pl
from pydantic import Field, ValidationError

from recsys.columns import EVENT, EVENT_ID, ITEM_ID, USER_ID, EventType
from recsys.config import Config
from recsys.data.content_hash import combine, frame_hash
from recsys.data.event_file import EVENT_SCHEMA, SORT_KEYS, EventFileWriter, as_events, read_events
from recsys.data.external_sort import ROWS_IN_MEMORY, sorted_batches
from recsys.data.string_ids import KEY
from recsys.errors import DataError
from recsys.files import replacing_directory, temporary_directory, write_text

TimeKind = Literal["real", "order"]
IdKind = Literal["integer", "string"]

_INFO: Final = "dataset.json"
_EVENTS: Final = "events.parquet"
_ITEMS: Final = "items.parquet"
_USERS: Final = "users.parquet"
_ITEM_KEYS: Final = "item_keys.parquet"
_USER_KEYS: Final = "user_keys.parquet"
REJECTED: Final = "rejected.parquet"


class Counts(Config):
    """How much a dataset holds; `by_type` counts events by their type."""

    events: int
    users: int
    items: int
    by_type: dict[str, int]
    rejected: int = 0


class DatasetInfo(Config):
    """What `dataset.json` says.

    Attributes:
        name: what reports call the dataset.
        time: "real" (Unix milliseconds) or "order" (`timestamp_ms` is the 0-based position in the
            user's history: neither comparable between users nor a time).
        user_ids, item_ids: "string" when the ids are hashes of strings, with a dictionary beside.
        row_ids: event ids below it are the numbers of the source's rows, given to events that came without any;
            0 when they came with ids of their own.
        content_hash: of events, items, users and dictionaries; the same data give the same hash.
        source: where it came from, for people.
    """

    format: Literal[1] = 1
    name: str
    time: TimeKind
    user_ids: IdKind = "integer"
    item_ids: IdKind = "integer"
    row_ids: int = Field(default=0, ge=0)
    counts: Counts
    content_hash: str
    source: str = ""


class Dataset:
    """An opened dataset directory; the tables are read when asked for."""

    def __init__(self, path: Path, info: DatasetInfo) -> None:
        self.path = path
        self.info = info

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Opens a dataset directory and checks that its tables have the columns they need.

        Raises:
            DataError: names the file or column that is missing or wrong.
        """
        if not path.is_dir():
            what = "is a file, not a dataset directory" if path.exists() else "does not exist"
            raise DataError(f"{path} {what}; make one with `recsys data import` or `recsys data fetch`")
        info = _read_info(path / _INFO)
        _check_columns(path / _EVENTS, EVENT_SCHEMA)
        _check_columns(path / _ITEMS, pl.Schema({ITEM_ID: pl.Int64()}))
        _check_columns(path / _USERS, pl.Schema({USER_ID: pl.Int64()}))
        if info.item_ids == "string":
            _check_columns(path / _ITEM_KEYS, pl.Schema({ITEM_ID: pl.Int64(), KEY: pl.String()}))
        if info.user_ids == "string":
            _check_columns(path / _USER_KEYS, pl.Schema({USER_ID: pl.Int64(), KEY: pl.String()}))
        return cls(path, info)

    def events(self) -> pl.LazyFrame:
        """Every event, columns of EVENT_SCHEMA, sorted by (timestamp_ms, event_id)."""
        return pl.scan_parquet(self.path / _EVENTS)

    def event_batches(self) -> Iterator[pl.DataFrame]:
        """`events`, in batches of a bounded size."""
        return read_events(self.path / _EVENTS)

    def items(self) -> pl.DataFrame:
        """Every item: item_id and attributes, sorted by item_id; row i is row i of the catalogue."""
        return self._items

    def users(self) -> pl.DataFrame:
        """Every user: user_id and attributes, sorted by user_id."""
        return self._users

    def item_keys(self) -> pl.DataFrame | None:
        """(item_id, key) sorted by item_id where the ids are hashed strings, else None."""
        return pl.read_parquet(self.path / _ITEM_KEYS) if self.info.item_ids == "string" else None

    def user_keys(self) -> pl.DataFrame | None:
        """(user_id, key) sorted by user_id where the ids are hashed strings, else None."""
        return pl.read_parquet(self.path / _USER_KEYS) if self.info.user_ids == "string" else None

    @cached_property
    def _items(self) -> pl.DataFrame:
        return pl.read_parquet(self.path / _ITEMS)

    @cached_property
    def _users(self) -> pl.DataFrame:
        return pl.read_parquet(self.path / _USERS)


def write_dataset(
    path: Path,
    *,
    events: pl.LazyFrame | pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    name: str,
    time: TimeKind,
    user_keys: pl.DataFrame | None = None,
    item_keys: pl.DataFrame | None = None,
    rejected: pl.DataFrame | None = None,
    row_ids: int = 0,
    source: str = "",
    rows_in_memory: int = ROWS_IN_MEMORY,
) -> Dataset:
    """Writes a dataset directory atomically: `path` is the old one or the new one, whole.

    Args:
        path: a directory that does not exist, is empty, or is a dataset (which is replaced).
        events: user_id, item_id, timestamp_ms and optionally the rest of EVENT_SCHEMA, in any
            order; without `event` all are clicks, without `event_id` it is the row number.
        items: item_id and attributes; items that only events name are added, without attributes.
        users: user_id and attributes, as `items`.
        name: what reports call it.
        time: "order" when timestamp_ms is only the position in the user's history.
        user_keys: dictionary (user_id, key) where user ids are hashed strings.
        item_keys: dictionary (item_id, key) where item ids are hashed strings.
        rejected: rows that an import left out, kept as `rejected.parquet`.
        row_ids: as `DatasetInfo` says; found out here where the events have no `event_id`.
        source: where the data came from, for people.
        rows_in_memory: events that are sorted at once; more of them are sorted through files.

    Raises:
        DataError: for a missing or repeated id, a missing column, no event at all, or a `path`
            that holds something else.
    """
    frame = events.lazy()
    if EVENT_ID not in frame.collect_schema():
        row_ids = frame.select(pl.len()).collect(engine="streaming").item()
        frame = frame.with_row_index(EVENT_ID)
    frame = as_events(frame)
    with DatasetWriter(path) as writer:
        with temporary_directory(writer.folder, ".runs.") as scratch:
            for batch in sorted_batches(frame, SORT_KEYS, scratch, rows_in_memory):
                writer.write(batch)
        return writer.finish(
            items=items,
            users=users,
            name=name,
            time=time,
            user_keys=user_keys,
            item_keys=item_keys,
            rejected=rejected,
            row_ids=row_ids,
            source=source,
        )


class DatasetWriter:
    """Writes a dataset directory from events that come in order, batch by batch, in bounded memory.

    Used in a `with` block: what is at `path` stays until `finish` replaces it, in one step; without
    `finish` nothing changes.

    Args:
        path: a directory that does not exist, is empty, or is a dataset (which is replaced).

    Raises:
        DataError: on entering, for a `path` that holds something else or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory = replacing_directory(path)
        self._finished = False

    def __enter__(self) -> Self:
        check_replaceable(self._path)
        with writing_to(self._path):
            self.folder = self._directory.__enter__()
            self._events = EventFileWriter(self.folder / _EVENTS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self._events.abandon()
            error = error or DataError(f"{self._path}: the dataset was not finished")
            self._directory.__exit__(type(error), error, trace)

    def write(self, batch: pl.DataFrame) -> None:
        """Adds events that come after all that were written before.

        Args:
            batch: user_id, item_id, timestamp_ms, event_id and optionally the rest of EVENT_SCHEMA, without
                `event` clicks; sorted by (timestamp_ms, event_id). Any number of rows.

        Raises:
            DataError: for a missing column or value, or events that are not in order.
        """
        with writing_to(self._path):
            self._events.write(batch)

    def finish(
        self,
        *,
        name: str,
        time: TimeKind,
        items: pl.DataFrame | None = None,
        users: pl.DataFrame | None = None,
        user_keys: pl.DataFrame | None = None,
        item_keys: pl.DataFrame | None = None,
        rejected: pl.DataFrame | None = None,
        row_ids: int = 0,
        source: str = "",
    ) -> Dataset:
        """Writes the other tables and puts the dataset in its place; the arguments are those of `write_dataset`.

        Raises:
            DataError: for a missing or repeated id, or no event at all.
        """
        with writing_to(self._path):
            hashes = [self._events.close()]
            written = pl.scan_parquet(self.folder / _EVENTS)
            by_type = _count_by_type(written)
            item_table, user_table = _entities(items, written, ITEM_ID), _entities(users, written, USER_ID)
            tables = {_ITEMS: item_table, _USERS: user_table, _ITEM_KEYS: item_keys, _USER_KEYS: user_keys}
            for file_name, table in tables.items():
                if table is not None:
                    table.write_parquet(self.folder / file_name, compression="zstd")
                    hashes.append(frame_hash(table))
            if rejected is not None and rejected.height:
                rejected.write_parquet(self.folder / REJECTED, compression="zstd")
            info = DatasetInfo(
                name=name,
                time=time,
                user_ids="integer" if user_keys is None else "string",
                item_ids="integer" if item_keys is None else "string",
                row_ids=row_ids,
                counts=Counts(
                    events=sum(by_type.values()),
                    users=user_table.height,
                    items=item_table.height,
                    by_type=by_type,
                    rejected=0 if rejected is None else rejected.height,
                ),
                content_hash=combine(hashes),
                source=source,
            )
            write_text(self.folder / _INFO, info.model_dump_json(indent=2) + "\n")
            self._finished = True
            self._directory.__exit__(None, None, None)
        return Dataset.open(self._path)


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Says of a disk's refusal which dataset cannot be written.

    Raises:
        DataError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from None


def check_replaceable(path: Path) -> None:
    """Refuses to write a dataset over something that is not one.

    Raises:
        DataError: when `path` is a file, a directory that is neither empty nor a dataset, or not to be made.
    """
    there = next(ancestor for ancestor in (path, *path.absolute().parents) if ancestor.exists())
    if there != path:
        if not there.is_dir():
            raise DataError(f"{path} cannot be made: {there} is a file")
        return
    if not path.is_dir():
        raise DataError(f"{path} is a file; give a directory to write the dataset to")
    if not (path / _INFO).is_file() and any(path.iterdir()):
        raise DataError(f"{path} exists and is not a dataset (it has no {_INFO}); give another directory or remove it")


def _count_by_type(events: pl.LazyFrame) -> dict[str, int]:
    counted = dict(events.group_by(EVENT).len().collect(engine="streaming").iter_rows())
    if not counted:
        raise DataError("there is no event to write; a dataset needs at least one")
    return {kind.value: counted.get(kind.value, 0) for kind in EventType}


def _entities(table: pl.DataFrame | None, events: pl.LazyFrame, id_column: str) -> pl.DataFrame:
    """The table of items or users, with those that only events name added, sorted by id."""
    seen = events.select(pl.col(id_column).unique()).collect(engine="streaming")
    if table is None:
        return seen.sort(id_column)
    if id_column not in table.columns:
        raise DataError(f"the table of attributes has no column {id_column!r}; it has: {', '.join(table.columns)}")
    table = table.with_columns(pl.col(id_column).cast(pl.Int64)).select(id_column, pl.exclude(id_column))
    repeated = table.filter(pl.col(id_column).is_duplicated())
    if repeated.height:
        raise DataError(f"{id_column} {repeated[id_column][0]} stands in more than one row of its table of attributes")
    if table[id_column].null_count():
        raise DataError(f"{id_column} is empty in a row of its table of attributes")
    missing = seen.join(table, on=id_column, how="anti")
    return pl.concat([table, missing], how="diagonal").sort(id_column)


def _read_info(file: Path) -> DatasetInfo:
    try:
        return DatasetInfo.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file.parent} is not a dataset: it has no {file.name}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its text"
        raise DataError(f"{file}: {where}: {first['msg']}; import the data again") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def _check_columns(file: Path, needed: pl.Schema) -> None:
    if not file.is_file():
        raise DataError(f"{file.parent} is not a whole dataset: it has no {file.name}; import the data again")
    try:
        schema = pl.read_parquet_schema(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file: {error}") from None
    for column, kind in needed.items():
        if column not in schema:
            raise DataError(f"{file}: has no column {column!r}; it has: {', '.join(schema)}")
        if schema[column] != kind:
            raise DataError(f"{file}: column {column!r} is {schema[column]}, not {kind}")

"""The file of a dataset's events: its columns, and a writer that takes them in order, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.columns import CLICK_ID, EVENT, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID, VALUE, EventType
from recsys.data.content_hash import TableDigest
from recsys.errors import DataError

EVENT_SCHEMA: Final = pl.Schema(
    {
        USER_ID: pl.Int64(),
        ITEM_ID: pl.Int64(),
        EVENT: pl.Enum([kind.value for kind in EventType]),
        TIMESTAMP_MS: pl.Int64(),
        EVENT_ID: pl.Int64(),
        CLICK_ID: pl.Int64(),
        VALUE: pl.Float32(),
    }
)
"""Columns of `events.parquet`; click_id and value may be null, the others not."""

SORT_KEYS: Final = (TIMESTAMP_MS, EVENT_ID)
"""What events are sorted by."""

_REQUIRED: Final = tuple(name for name in EVENT_SCHEMA if name not in (CLICK_ID, VALUE))
_DEFAULTS: Final = {EVENT: EventType.CLICK.value, CLICK_ID: None, VALUE: None}
_ROWS_A_GROUP: Final = 1 << 18


def as_events(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The columns of EVENT_SCHEMA in their types; events without `event` are clicks.

    Raises:
        DataError: names a column that every event needs and the frame lacks.
    """
    present = frame.collect_schema()
    for column in _REQUIRED:
        if column not in present and column != EVENT:
            raise DataError(f"events have no column {column!r}; they have: {', '.join(present)}")
    absent = [pl.lit(value).alias(name) for name, value in _DEFAULTS.items() if name not in present]
    return frame.with_columns(absent).select(pl.col(name).cast(kind) for name, kind in EVENT_SCHEMA.items())


class EventFileWriter:
    """Writes sorted events to a Parquet file, in memory that does not grow with their number.

    Row groups hold 2**18 events each, wherever one batch ended and the next began.
    """

    def __init__(self, file: Path) -> None:
        self.rows = 0
        self._digest = TableDigest(EVENT_SCHEMA)
        schema = pl.DataFrame(schema=EVENT_SCHEMA).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        self._file = pq.ParquetWriter(
            file, schema, compression="zstd", compression_level=1, use_dictionary=[EVENT], store_schema=True
        )
        self._waiting: list[pl.DataFrame] = []
        self._last: tuple[int, int] | None = None

    def write(self, batch: pl.DataFrame) -> None:
        """Adds events that come after all that were written before.

        Args:
            batch: user_id, item_id, timestamp_ms, event_id and optionally the rest of EVENT_SCHEMA,
                sorted by (timestamp_ms, event_id).

        Raises:
            DataError: for a missing column or value, or events that are not in order.
        """
        events = as_events(batch.lazy()).collect()
        if not events.height:
            return
        _check_complete(events)
        self._last = _check_sorted(events, self._last)
        self.rows += events.height
        self._waiting.append(events)
        self._write_groups(whole_only=True)

    def close(self) -> str:
        """Writes what still waits and closes the file; returns the content hash of all events."""
        self._write_groups(whole_only=False)
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Closes a file that is to be thrown away; what it still lacks is not written."""
        self._waiting = []
        with suppress(OSError, pa.ArrowException):  # a disk that is full does not take the end of the file either
            self._file.close()

    def _write_groups(self, *, whole_only: bool) -> None:
        count = sum(frame.height for frame in self._waiting)
        if not count or (whole_only and count < _ROWS_A_GROUP):
            return
        events = pl.concat(self._waiting)
        used = count - count % _ROWS_A_GROUP if whole_only else count
        for group in events.head(used).iter_slices(_ROWS_A_GROUP):
            self._file.write_table(group.to_arrow(compat_level=pl.CompatLevel.oldest()), row_group_size=_ROWS_A_GROUP)
            self._digest.update(group)
        self._waiting = [events.tail(count - used).clone()] if used < count else []


def read_events(file: Path) -> Iterator[pl.DataFrame]:
    """The events of a file in their order, in batches of a bounded size."""
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size=_ROWS_A_GROUP):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            yield frame


def _check_complete(events: pl.DataFrame) -> None:
    for column in _REQUIRED:
        if count := events[column].null_count():
            raise DataError(f"events: column {column!r} is empty in {count} rows; every event needs it")


def _check_sorted(events: pl.DataFrame, last: tuple[int, int] | None) -> tuple[int, int]:
    """Refuses events that are not in ascending order after `last`; returns the (time, id) of their last."""
    keys = events.select(SORT_KEYS)
    time, event = pl.col(TIMESTAMP_MS), pl.col(EVENT_ID)
    later = (time > time.shift()) | ((time == time.shift()) & (event > event.shift()))
    wrong = keys.with_row_index("row").filter(~later)
    if last is not None and keys.row(0) <= last:
        wrong = keys.head(1)
    if wrong.height:
        moment, number = wrong.select(SORT_KEYS).row(0)
        raise DataError(
            f"events are not sorted by ({', '.join(SORT_KEYS)}), or an event_id stands there twice: "
            f"event {number} at {moment} does not come after the one before it"
        )
    time_ms, event_id = keys.row(-1)
    return time_ms, event_id

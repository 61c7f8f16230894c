"""A folder of drained events: Parquet parts, each written whole and named by where the stream stood with it."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import polars as pl

from recsys.columns import (
    CLICK_ID,
    EVENT,
    EVENT_ID,
    ITEM_ID,
    ITEM_KEY,
    TIMESTAMP_MS,
    USER_ID,
    USER_KEY,
    VALUE,
    EventType,
)
from recsys.errors import DataError, PreconditionError
from recsys.files import replacing
from recsys.stores.packing import parse_position
from recsys.stores.store import Event, StreamEntry

PART_SCHEMA: Final = pl.Schema(
    {
        USER_ID: pl.Int64(),
        ITEM_ID: pl.Int64(),
        EVENT: pl.Enum([kind.value for kind in EventType]),
        TIMESTAMP_MS: pl.Int64(),
        EVENT_ID: pl.Int64(),
        CLICK_ID: pl.Int64(),
        VALUE: pl.Float32(),
        USER_KEY: pl.String(),
        ITEM_KEY: pl.String(),
    }
)
"""Columns of a part: a dataset's events, and the keys that users and items were named by, null where they were not."""

_NAME = re.compile(r"events-([0-9a-f]+)-(\d+)-(\d+)-(\d+)\.parquet")
_LOCK: Final = ".drain.lock"


class PartEnd(NamedTuple):
    """The last event of a part: its position in the stream, and its number (0 = not counted)."""

    position: str
    number: int


class EventParts:
    """Writes parts into one folder; while it is open, no other process does.

    A part is there whole or not at all, and on disk when `write` returns. Its name says up to which
    event of which stream it goes, so that who was killed in between knows what it has already.

    Args:
        folder: made when absent.

    Raises:
        PreconditionError: another process writes into the folder, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise PreconditionError(f"{folder}: events cannot be written there: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            why = "another `recsys events drain` writes there" if isinstance(error, BlockingIOError) else error.strerror
            raise PreconditionError(f"{folder}: {why}; wait for its end, or give another directory") from None

    def last(self, stream: str) -> PartEnd | None:
        """The last event of a stream that the folder has, None when it has none."""
        ends = [
            PartEnd(f"{int(found[2])}-{int(found[3])}", int(found[4]))
            for name in os.listdir(self.folder)
            if (found := _NAME.fullmatch(name)) and found[1] == stream
        ]
        return max(ends, key=lambda end: parse_position(end.position), default=None)

    def write(self, stream: str, entries: Sequence[StreamEntry]) -> Path:
        """Writes entries of a stream as one part; returns it.

        Raises:
            DataError: the disk does not take it; nothing is left behind.
        """
        last = entries[-1]
        time_ms, sequence = parse_position(last.position)
        path = self.folder / f"events-{stream}-{time_ms:013d}-{sequence:06d}-{last.number:012d}.parquet"
        try:
            with replacing(path) as temporary:
                part_of([entry.event for entry in entries]).write_parquet(temporary, compression="zstd")
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror or error}") from None
        return path

    def close(self) -> None:
        """Lets another process write into the folder."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def part_of(events: Sequence[Event]) -> pl.DataFrame:
    """Events as a table with the columns of PART_SCHEMA."""
    rows = [
        (e.user_id, e.item_id, e.type.value, e.timestamp_ms, e.event_id, e.click_id, e.value, e.user_key, e.item_key)
        for e in events
    ]
    return pl.DataFrame(rows, schema=PART_SCHEMA, orient="row")

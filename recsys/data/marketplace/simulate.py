"""From laws to a dataset directory with its truth beside it: streamed, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.columns import CLICK_ID, EVENT, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID, VALUE
from recsys.data.dataset import Dataset, DatasetWriter
from recsys.data.event_file import EVENT_SCHEMA
from recsys.data.marketplace.generator import CONVERSION, KINDS, NONE, Events, Generator
from recsys.data.marketplace.interests import interest_segments
from recsys.data.marketplace.laws import Laws
from recsys.data.marketplace.truth import (
    EVENTS,
    INTERESTS,
    TRUTH,
    TRUTH_JSON,
    TruthRecord,
    file_records,
    save_tables,
)
from recsys.data.marketplace.world import World
from recsys.errors import DataError
from recsys.files import write_text

_TRUTH_SCHEMA: Final = pa.schema(
    [("position", pa.uint8())]
    + [(name, pa.float32()) for name in ("p_click", "p_convert", "fast_share", "scale_hours", "delay_hours")]
)
_NAMES: Final = pl.Series([kind.value for kind in KINDS], dtype=EVENT_SCHEMA[EVENT])
_REPORTS: Final = 10
_ROWS_A_BATCH: Final = 1 << 17

Report = Callable[[str], None]


def simulate(path: Path, laws: Laws, *, threads: int = 1, report: Report = lambda step: None) -> Dataset:
    """Simulates a world and writes its log to `path`, the truth in `path/truth`.

    The same laws give the same data, whatever the number of threads. Memory holds the tables of items and users, an
    hour of events, and the conversions that are still to come.

    Args:
        path: a directory that does not exist, is empty, or is a dataset (which is replaced).
        laws: the world, see `laws_of`.
        threads: blocks of users that are simulated at once.
        report: told what is being done.

    Raises:
        DataError: for a `path` that holds something else or cannot be written, or when nothing happens at all.
    """
    try:
        with DatasetWriter(path) as writer:
            report(f"drawing {laws.items:,} items and {laws.users:,} users")
            world = World.draw(laws)
            with _TruthWriter(writer.folder / TRUTH, world) as truth:
                for events in _batches(Generator(world, threads).hours(), laws, report):
                    writer.write(_as_frame(events, truth.events))
                    truth.write(events)
            report("writing what users wanted")
            truth.finish()
            report("writing items and users")
            return writer.finish(
                items=world.item_frame(),
                users=world.user_frame(),
                name=f"marketplace-{laws.preset}",
                time="real",
                source=f"simulated: preset {laws.preset}, seed {laws.seed}, {laws.days} days",
            )
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from None


class _TruthWriter:
    """Writes `truth/` beside the events; `events` counts them."""

    def __init__(self, folder: Path, world: World) -> None:
        self.events = 0
        self._folder, self._world = folder, world

    def __enter__(self) -> Self:
        self._folder.mkdir()
        self._file = pa.OSFile(str(self._folder / EVENTS), "wb")
        self._stream = pa.ipc.new_file(self._file, _TRUTH_SCHEMA)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._file.close()

    def write(self, events: Events) -> None:
        """Adds the truth of the next events."""
        self.events += len(events)
        columns = [pa.array(np.ascontiguousarray(events[name])) for name in _TRUTH_SCHEMA.names]
        self._stream.write_batch(pa.record_batch(columns, schema=_TRUTH_SCHEMA))

    def finish(self) -> None:
        """Writes everything beside the events, once these are all there."""
        save_tables(self._folder, self._world)
        pl.concat(interest_segments(self._world)).write_ipc(self._folder / INTERESTS)
        record = TruthRecord(laws=self._world.laws, events=self.events, files=file_records(self._folder))
        write_text(self._folder / TRUTH_JSON, record.model_dump_json(indent=2) + "\n")


def _as_frame(events: Events, first_id: int) -> pl.DataFrame:
    """Events of an hour as rows of events.parquet."""
    kind = np.ascontiguousarray(events["kind"])
    click, value = pl.Series(CLICK_ID, events["click_id"]), pl.Series(VALUE, events["value"])
    return pl.DataFrame(
        {
            USER_ID: events["user"].astype(np.int64) + 1,
            ITEM_ID: events["item"].astype(np.int64) + 1,
            EVENT: _NAMES.gather(kind),
            TIMESTAMP_MS: np.ascontiguousarray(events["timestamp_ms"]),
            EVENT_ID: np.arange(first_id, first_id + len(events)),
            CLICK_ID: click.set(click == NONE, None),
            VALUE: value.set(pl.Series(kind != CONVERSION), None),
        }
    )


def _batches(hours: Iterator[Events], laws: Laws, report: Report) -> Iterator[Events]:
    """Hours joined to batches of some size, which cost less to write; says now and then which day it is."""
    waiting: list[Events] = []
    total = 0
    for hour, events in enumerate(hours):
        if hour % (24 * max(1, laws.days // _REPORTS)) == 0:
            report(f"day {hour // 24 + 1} of {laws.days}, {total:,} events so far")
        total += len(events)
        waiting.append(events)
        if sum(map(len, waiting)) >= _ROWS_A_BATCH:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)

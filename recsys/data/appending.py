"""Append: later events, items and users into a dataset, each once, in memory that the dataset does not fill."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from recsys.columns import EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.appended_events import NewEvents, read_new_events, with_text
from recsys.data.checks import REJECTED_SCHEMA, WELL_FORMED, Check, Rejected, failing, passing, refuse_too_many
from recsys.data.dataset import REJECTED, Dataset, DatasetWriter, check_replaceable, writing_to
from recsys.data.event_file import EVENT_SCHEMA, SORT_KEYS
from recsys.data.event_ids import CONFLICT, Settled, settle
from recsys.data.id_columns import IdPlan
from recsys.data.importing import entity_table
from recsys.data.marketplace.truth import TRUTH
from recsys.data.named_ids import resolve_ids
from recsys.data.readers.raw import ROW, RawTable, ReaderOptions
from recsys.data.readers.table import open_attributes
from recsys.data.string_ids import joined_dictionaries
from recsys.errors import PreconditionError, UsageError

Report = Callable[[str], None]
"""Told in a few words what is being done."""


@dataclass(frozen=True, slots=True)
class AppendOptions:
    """How to read what is appended.

    Attributes:
        reader: maps of columns, and files of item and user attributes.
        event_names: a source's word for an event → impression, click or conversion.
        max_rejected: share of rows of a file that may be left out.
    """

    reader: ReaderOptions = field(default_factory=ReaderOptions)
    event_names: Mapping[str, str] = field(default_factory=dict)
    max_rejected: float = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Appended:
    """What became of an append.

    Attributes:
        dataset: as it is now.
        given: events that there were to append.
        added: those that the dataset lacked.
        duplicates: those that it had, or that came twice.
        rejected: for each file of which rows were left out.
        changed: whether the dataset is another than before.
    """

    dataset: Dataset
    given: int
    added: int
    duplicates: int
    rejected: list[Rejected]
    changed: bool


def append_to_dataset(
    path: Path,
    events: Path | None = None,
    out: Path | None = None,
    options: AppendOptions | None = None,
    report: Report = lambda _: None,
) -> Appended:
    """Joins later events and attributes into a dataset, atomically; what it has already changes nothing.

    Events are the same when their ids are (event_ids says what of those that have none). Users and items that
    only events name are added without attributes; rows of attributes that are given are added or replace
    what they name, column by column.

    Args:
        path: a dataset directory.
        events: a CSV or Parquet file, or a folder of Parquet files as `recsys events drain` writes.
        out: dataset directory to write; None replaces `path`.
        options: how to read them.
        report: told what is being done.

    Raises:
        UsageError: when there is nothing to append.
        DataError: for what cannot be read, or is not of the dataset's kind, past `options.max_rejected`.
        PreconditionError: when another append to `path` is under way.
    """
    options = options or AppendOptions()
    if events is None and options.reader.items is None and options.reader.users is None:
        raise UsageError("nothing to append: give --events, --items or --users")
    check_replaceable(out or path)
    with _alone(path):
        return _Append(Dataset.open(path), out or path, options, report).run(events)


class _Append:
    """One append under way."""

    def __init__(self, dataset: Dataset, out: Path, options: AppendOptions, report: Report) -> None:
        self._dataset, self._out, self._options, self._report = dataset, out, options, report
        self._keep_at = out.parent / f"{out.name}.rejected.parquet"
        self._keep_at.unlink(missing_ok=True)
        self._rejected: list[Rejected] = []

    def run(self, path: Path | None) -> Appended:
        """Reads, settles, merges and writes."""
        dataset, reader = self._dataset, self._options.reader
        new = NewEvents.none() if path is None else self._read(path)
        settled = self._settled(new, path)
        items = self._entities(ITEM_ID, dataset.items(), reader.items, reader.item_columns)
        users = self._entities(USER_ID, dataset.users(), reader.users, reader.user_columns)
        changed = bool(settled.added.height) or items.changed or users.changed
        if changed or self._out != dataset.path:
            dataset = self._write(settled.added.select(*EVENT_SCHEMA), items, users, new.keys)
        return Appended(dataset, new.total, settled.added.height, settled.duplicates, self._rejected, changed)

    def _read(self, path: Path) -> NewEvents:
        self._report(f"reading {path}")
        options = self._options
        return read_new_events(
            path, self._dataset, options.reader.columns, options.event_names, options.max_rejected, self._reject
        )

    def _settled(self, new: NewEvents, path: Path | None) -> Settled:
        if path is None or not new.rows.height:
            return Settled(new.rows, 0, new.rows)
        self._report("looking for events that are there already")
        row_ids = self._dataset.info.row_ids
        settled = settle(new.rows, self._dataset.event_batches(), row_ids, own_ids=new.own_ids)
        if settled.conflicts.height:
            conflict = Check(pl.lit(True), pl.col(CONFLICT))
            self._reject(failing(with_text(path, settled.conflicts), [conflict], new.total))
        return settled

    def _entities(self, id_column: str, old: pl.DataFrame, path: Path | None, columns: Mapping[str, str]) -> _Entities:
        """The table of items or users with the given rows in it."""
        dictionary = self._dictionary(id_column)
        if path is None:
            return _Entities(old, dictionary, changed=False)
        self._report(f"reading {path}")
        raw = open_attributes(path, columns, id_column)
        rows = raw.frame.sort(ROW).collect()
        found = resolve_ids(rows, id_column, None, dictionary)
        self._reject(failing(RawTable(path, found.rows.lazy(), raw.typed), [WELL_FORMED, *found.checks], rows.height))
        sound = passing(found.rows.lazy(), [WELL_FORMED, *found.checks]).with_columns(found.value)
        table = RawTable(path, sound.select(rows.columns), raw.typed)
        given = entity_table(table, id_column, IdPlan("integer", clean=True), self._reject, old.schema)
        updated = _updated(old, given, id_column)
        named = None if found.keys is None else found.keys.join(given, on=id_column, how="semi")
        return _Entities(updated, _joined(dictionary, named), changed=not updated.equals(old))

    def _write(
        self, added: pl.DataFrame, items: _Entities, users: _Entities, named: Mapping[str, pl.DataFrame]
    ) -> Dataset:
        dataset, info = self._dataset, self._dataset.info
        self._report("merging and writing")

        def keys(entities: _Entities, id_column: str) -> pl.DataFrame | None:
            """The dictionary of all ids that the tables now hold."""
            of_events = named.get(id_column)
            used = None if of_events is None else of_events.join(added, on=id_column, how="semi")
            return _joined(entities.keys, used)

        with DatasetWriter(self._out) as writer:
            for batch in merged(dataset.event_batches(), added):
                writer.write(batch)
            with writing_to(self._out):
                _keep_truth(self._dataset.path, writer.folder)
            return writer.finish(
                name=info.name,
                time=info.time,
                items=items.table,
                users=users.table,
                user_keys=keys(users, USER_ID),
                item_keys=keys(items, ITEM_ID),
                rejected=self._all_rejected(),
                row_ids=info.row_ids,
                source=info.source,
            )

    def _dictionary(self, id_column: str) -> pl.DataFrame | None:
        return self._dataset.user_keys() if id_column == USER_ID else self._dataset.item_keys()

    def _reject(self, found: Rejected) -> None:
        refuse_too_many(found, self._options.max_rejected, self._keep_at)
        if found.count:
            self._rejected.append(found)

    def _all_rejected(self) -> pl.DataFrame:
        """What the import and earlier appends left out, and what this one did; a row that came again once."""
        earlier = self._dataset.path / REJECTED
        kept = [pl.read_parquet(earlier)] if earlier.is_file() else []
        frames = [pl.DataFrame(schema=REJECTED_SCHEMA), *kept, *(found.rows for found in self._rejected)]
        return pl.concat(frames).unique(maintain_order=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Entities:
    """The table of items or users as it will be, its dictionary where ids are hashes, and whether it is another."""

    table: pl.DataFrame
    keys: pl.DataFrame | None
    changed: bool


def _keep_truth(dataset: Path, folder: Path) -> None:
    """Copies what lies beside simulated events, which stays true of them."""
    if (dataset / TRUTH).is_dir():
        shutil.copytree(dataset / TRUTH, folder / TRUTH)


def merged(held: Iterable[pl.DataFrame], added: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Two sorted sets of events as one, batch by batch.

    Args:
        held: columns of EVENT_SCHEMA, sorted by (timestamp_ms, event_id) from batch to batch.
        added: the same columns, in any order; in memory.
    """
    added = added.sort(SORT_KEYS)
    done = 0
    for batch in held:
        time_ms, event_id = batch.select(SORT_KEYS).row(-1)
        first, last = (int(added[TIMESTAMP_MS].search_sorted(time_ms, side=side)) for side in ("left", "right"))
        until = first + int(added[EVENT_ID][first:last].search_sorted(event_id, side="right"))
        if until > done:
            batch = pl.concat([batch, added[done:until]]).sort(SORT_KEYS)
            done = until
        yield batch
    if done < added.height:
        yield added[done:]


def _updated(old: pl.DataFrame, given: pl.DataFrame, id_column: str) -> pl.DataFrame:
    """A table with given rows added, or put in the place of those of the same id in the columns that they have."""
    kept = [name for name in old.columns if name == id_column or name not in given.columns]
    replaced = given.join(old.select(kept), on=id_column, how="left")
    others = old.join(given, on=id_column, how="anti")
    columns = [*old.columns, *(name for name in given.columns if name not in old.columns)]
    return pl.concat([others, replaced], how="diagonal").select(columns).sort(id_column)


def _joined(dictionary: pl.DataFrame | None, named: pl.DataFrame | None) -> pl.DataFrame | None:
    if dictionary is None or named is None:
        return dictionary
    return joined_dictionaries([dictionary, named])


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other appends to a dataset away: two at once would each replace what the other wrote.

    The lock is on the directory itself, which an append replaces by another: whoever got it on one that
    is no longer there tries again.
    """
    while True:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # no directory: opening it as a dataset says so
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise PreconditionError(f"{path}: another append to it is under way; wait for its end") from None
        if os.path.samestat(os.fstat(lock), path.stat()):
            break
        os.close(lock)
    try:
        yield
    finally:
        os.close(lock)

"""Import: raw tables checked, typed and written as a dataset; what cannot be used is counted, named and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import polars as pl

from recsys.columns import CLICK_ID, CREATED_MS, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.attributes import type_attributes
from recsys.data.checks import WELL_FORMED, Check, Rejected, failing, passing, refuse_too_many
from recsys.data.dataset import Dataset, check_replaceable, write_dataset, writing_to
from recsys.data.event_columns import ColumnRule, column_rules, time_rule
from recsys.data.external_sort import ROWS_IN_MEMORY, sorted_batches, spooled
from recsys.data.id_columns import IdCounts, IdPlan, IdPolicy, count_ids, plan_ids
from recsys.data.readers import READERS
from recsys.data.readers.raw import (
    FILE,
    LINE,
    MALFORMED,
    ORDER,
    PLACE,
    ROW,
    TEXT,
    RawData,
    RawTable,
    ReaderOptions,
)
from recsys.data.timestamps import plan_times
from recsys.errors import UsageError
from recsys.files import temporary_directory

Report = Callable[[str], None]
"""Told in a few words what is being done."""
_MAPPED: Final = ("table", "jsonl")
"""The formats whose columns are told."""
_ID_COLUMNS: Final = (USER_ID, ITEM_ID, EVENT_ID, CLICK_ID)

Reject = Callable[[Rejected], None]
"""Takes note of rows that are left out; raises when they are too many."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to read a source.

    Attributes:
        reader: what only the formats take whose columns are told.
        event_names: a source's word for an event → impression, click or conversion.
        ids: what the ids are; "auto" looks.
        max_rejected: share of rows of a file that may be left out.
        name: of the dataset; the source's name when empty.
        rows_in_memory: events that are sorted at once; more of them are sorted through files.
    """

    reader: ReaderOptions = field(default_factory=ReaderOptions)
    event_names: Mapping[str, str] = field(default_factory=dict)
    ids: IdPolicy = "auto"
    max_rejected: float = 0.01
    name: str = ""
    rows_in_memory: int = ROWS_IN_MEMORY


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """What became of an import.

    Attributes:
        dataset: as written.
        rejected: for each file of which rows were left out.
        time: how times were read, for people.
    """

    dataset: Dataset
    rejected: list[Rejected]
    time: str


def import_dataset(
    format_name: str, path: Path, out: Path, options: ImportOptions | None = None, report: Report = lambda _: None
) -> Imported:
    """Reads `path` as `format_name` and writes a dataset directory, atomically.

    Args:
        format_name: one of READERS.
        path: file or folder, or a pattern where the format takes several files.
        out: dataset directory to write; replaced when it is one already.
        options: how to read it.
        report: told what is being done.

    Raises:
        UsageError: for an unknown format, or flags that the format does not take.
        DataError: for a source that cannot be read as what it was said to be.
    """
    options = options or ImportOptions()
    if format_name not in READERS:
        raise UsageError(f"there is no format {format_name!r}; there are: {', '.join(READERS)}")
    if options.reader.given and format_name not in _MAPPED:
        flag = options.reader.given[0]
        raise UsageError(f"{flag} belongs to the formats {' and '.join(_MAPPED)}; {format_name} knows its own columns")
    check_replaceable(out)
    report(f"reading {path}")
    raw = READERS[format_name](path, options.reader)
    named = path.resolve() if path.exists() else path.resolve().parent
    name = options.name or named.stem
    return build_dataset(raw, out, options, name=name, source=f"{format_name} {path.name}", report=report)


def build_dataset(
    raw: RawData, out: Path, options: ImportOptions, *, name: str, source: str, report: Report = lambda _: None
) -> Imported:
    """Checks and types raw tables and writes them as a dataset.

    Args:
        raw: the tables.
        out: dataset directory to write.
        options: how to read them.
        name: of the dataset.
        source: where it came from, for people.
        report: told what is being done.

    Raises:
        DataError: for rows that cannot be used past `options.max_rejected`.
    """
    keep_at = out.parent / f"{out.name}.rejected.parquet"
    keep_at.unlink(missing_ok=True)
    rejected: list[Rejected] = []

    def reject(found: Rejected) -> None:
        refuse_too_many(found, options.max_rejected, keep_at)
        if found.count:
            rejected.append(found)

    report("looking at ids and times")
    counts = count_ids(raw.events, [name for name in _ID_COLUMNS if name in raw.events.columns()])
    plans = _id_plans(raw, counts, options)
    time = time_rule(raw.events)
    report("checking events")
    rules = [*column_rules(raw.events, {**raw.event_names, **options.event_names}), *time.rules]
    checked = _checked(raw.events, counts, plans, rules, reject)
    with writing_to(out), temporary_directory(out.parent, f".{out.name}.") as scratch:
        sorting = Sorting(scratch, options.rows_in_memory)
        events = _with_event_ids(checked, counts.total, sorting, reject)
        if time.kind == "order":
            events = _with_positions(events, sorting)
        items = None if raw.items is None else entity_table(raw.items, ITEM_ID, plans[ITEM_ID], reject)
        users = None if raw.users is None else entity_table(raw.users, USER_ID, plans[USER_ID], reject)
        report("sorting and writing")
        dataset = write_dataset(
            out,
            events=events,
            items=items,
            users=users,
            name=name,
            time=time.kind,
            user_keys=plans[USER_ID].dictionary,
            item_keys=plans[ITEM_ID].dictionary,
            rejected=pl.concat([found.rows for found in rejected]) if rejected else None,
            row_ids=0 if EVENT_ID in raw.events.columns() else counts.end,
            source=source,
            rows_in_memory=options.rows_in_memory,
        )
    return Imported(dataset, rejected, raw.time_note or time.note)


def _id_plans(raw: RawData, counts: IdCounts, options: ImportOptions) -> dict[str, IdPlan]:
    """How each id column of the events is read; events and the clicks that they name share their ids."""

    def plan(columns: list[str], attributes: RawTable | None, policy: IdPolicy) -> IdPlan:
        tables = [(raw.events, column, counts) for column in columns]
        if attributes is not None:
            tables.append((attributes, columns[0], count_ids(attributes, columns)))
        return plan_ids(tables, columns[0], policy, options.max_rejected)

    plans = {USER_ID: plan([USER_ID], raw.users, options.ids), ITEM_ID: plan([ITEM_ID], raw.items, options.ids)}
    own = [column for column in (EVENT_ID, CLICK_ID) if column in counts.given]
    return plans | (dict.fromkeys(own, plan(own, None, "auto")) if own else {})


def _checked(
    table: RawTable, counts: IdCounts, plans: dict[str, IdPlan], rules: Sequence[ColumnRule], reject: Reject
) -> RawTable:
    """The usable events, their values in the dataset's terms."""
    kinds = table.columns()
    checks = [] if counts.rows == counts.total else [WELL_FORMED]
    for column, plan in plans.items():
        checks += plan.checks(column, kinds[column], required=column != CLICK_ID)
    for rule in rules:
        checks += rule.checks
    reject(failing(table, checks, counts.total))
    frame = passing(table.frame, checks).with_columns(rule.value for rule in rules)
    for column, plan in plans.items():
        frame = plan.encode(frame, column)
    return RawTable(table.file, frame)


@dataclass(frozen=True, slots=True)
class Sorting:
    """Where rows that do not fit into memory are sorted, and how many of them do."""

    scratch: Path
    rows_in_memory: int

    def batches(self, frame: pl.LazyFrame, *keys: str) -> Iterator[pl.DataFrame]:
        """The rows sorted by `keys`, batch by batch."""
        with temporary_directory(self.scratch, "runs.") as runs:
            yield from sorted_batches(frame, keys, runs, self.rows_in_memory)


def _with_event_ids(table: RawTable, total: int, sorting: Sorting, reject: Reject) -> pl.LazyFrame:
    """Events with an id each: their own, of which the first counts, or the number of their row."""
    if EVENT_ID not in table.columns():
        return table.frame.with_columns(pl.col(ROW).alias(EVENT_ID))
    again, last = [], None
    for batch in sorting.batches(table.frame.select(EVENT_ID, ROW), EVENT_ID, ROW):
        again.append(batch.filter(pl.col(EVENT_ID) == pl.col(EVENT_ID).shift(fill_value=last))[ROW])
        last = batch[EVENT_ID][-1]
    if not (rows := pl.concat(again)).len():
        return table.frame
    repeated = [Check(pl.col(ROW).is_in(rows.implode()), pl.lit("its event_id stands in an earlier row"))]
    reject(failing(table, repeated, total))
    return passing(table.frame, repeated)


def _with_positions(frame: pl.LazyFrame, sorting: Sorting) -> pl.LazyFrame:
    """Events with the 0-based position in their user's history for a time."""
    order = (ORDER,) if ORDER in frame.collect_schema() else ()
    folder = sorting.scratch / "positions"
    folder.mkdir()
    slim = frame.select(pl.exclude(LINE, TEXT, MALFORMED, FILE))
    return spooled(_numbered(sorting.batches(slim, USER_ID, *order, ROW)), folder)


def _numbered(batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Events that come user by user, with their position among those of their user."""
    number, user = pl.int_range(pl.len()), pl.col(USER_ID)
    begin = pl.when(user.ne_missing(user.shift())).then(number).forward_fill()
    last_user, last_position = None, -1
    for batch in batches:
        carried = pl.when(user == pl.lit(last_user, pl.Int64)).then(last_position + 1).otherwise(0)
        numbered = batch.with_columns((number - begin + carried).alias(TIMESTAMP_MS))
        last_user, last_position = numbered.select(USER_ID, TIMESTAMP_MS).row(-1)
        yield numbered


def entity_table(
    table: RawTable,
    id_column: str,
    plan: IdPlan,
    reject: Reject,
    known_types: Mapping[str, pl.DataType] = MappingProxyType({}),
) -> pl.DataFrame:
    """A table of items or users: Int64 ids, each once, and typed attributes.

    Args:
        table: raw rows.
        id_column: what identifies them.
        plan: how that column is read.
        reject: takes note of rows that are left out.
        known_types: types that attributes have already; those of the others are found out.

    Raises:
        DataError: for an attribute that no feature can be made of, or that is not of its known type.
    """
    rows = table.frame.sort(ROW).collect()
    raw = RawTable(table.file, rows.lazy(), table.typed)
    checks = [WELL_FORMED, *plan.checks(id_column, raw.columns()[id_column])]
    if CREATED_MS in raw.columns():
        times = plan_times(raw, CREATED_MS)
        created = times.milliseconds(CREATED_MS, raw.columns()[CREATED_MS])
        checks += times.checks(CREATED_MS, raw.columns()[CREATED_MS], required=False)
    reject(failing(raw, checks, rows.height))
    frame = passing(raw.frame, checks)
    if CREATED_MS in raw.columns():
        frame = frame.with_columns(created.alias(CREATED_MS))
    encoded = RawTable(table.file, plan.encode(frame, id_column))
    repeated = [Check(~pl.col(id_column).is_first_distinct(), pl.lit(f"its {id_column} stands in an earlier row"))]
    reject(failing(encoded, repeated, rows.height))
    kept = passing(encoded.frame, repeated).collect()
    attributes = type_attributes(
        kept.drop(*PLACE, id_column), typed=table.typed, source=str(table.file), known=known_types
    )
    return attributes.insert_column(0, kept[id_column])

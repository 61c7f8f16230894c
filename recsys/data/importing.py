"""Import: raw tables checked, typed and written as a dataset; what cannot be used is counted, named and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from recsys.columns import CLICK_ID, CREATED_MS, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.attributes import type_attributes
from recsys.data.checks import WELL_FORMED, Check, Rejected, failing, passing, refuse_too_many
from recsys.data.dataset import Dataset, check_replaceable, write_dataset
from recsys.data.event_columns import TimeRule, column_rules, time_rule
from recsys.data.id_columns import IdPlan, IdPolicy, plan_ids
from recsys.data.readers import READERS
from recsys.data.readers.raw import ORDER, PLACE, ROW, RawData, RawTable, ReaderOptions
from recsys.data.timestamps import plan_times
from recsys.errors import UsageError

Report = Callable[[str], None]
"""Told in a few words what is being done."""
Reject = Callable[[Rejected], None]
"""Takes note of rows that are left out; raises when they are too many."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to read a source.

    Attributes:
        reader: what only the `table` format takes.
        event_names: a source's word for an event → impression, click or conversion.
        ids: what the ids are; "auto" looks.
        max_rejected: share of rows of a file that may be left out.
        name: of the dataset; the source's name when empty.
    """

    reader: ReaderOptions = field(default_factory=ReaderOptions)
    event_names: Mapping[str, str] = field(default_factory=dict)
    ids: IdPolicy = "auto"
    max_rejected: float = 0.01
    name: str = ""


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
        path: file or folder.
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
    if options.reader.given and format_name != "table":
        raise UsageError(f"{options.reader.given[0]} belongs to the format table; {format_name} knows its own columns")
    check_replaceable(out)
    report(f"reading {path}")
    raw = READERS[format_name](path, options.reader)
    name = options.name or path.resolve().stem
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
    plans = {
        USER_ID: _plan(USER_ID, raw.events, raw.users, options),
        ITEM_ID: _plan(ITEM_ID, raw.events, raw.items, options),
    }
    report("checking events")
    time = time_rule(raw.events)
    events = _events(raw.events, plans, time, options, reject)
    items = None if raw.items is None else _entities(raw.items, ITEM_ID, plans[ITEM_ID], reject)
    users = None if raw.users is None else _entities(raw.users, USER_ID, plans[USER_ID], reject)
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
        source=source,
    )
    return Imported(dataset, rejected, time.note)


def _plan(column: str, events: RawTable, attributes: RawTable | None, options: ImportOptions) -> IdPlan:
    tables = [(events, column)] + ([] if attributes is None else [(attributes, column)])
    return plan_ids(tables, column, options.ids, options.max_rejected)


def _event_id_plans(table: RawTable, options: ImportOptions) -> dict[str, IdPlan]:
    """Ids of events, which clicks and the conversions that follow from them share."""
    columns = [column for column in (EVENT_ID, CLICK_ID) if column in table.columns()]
    if not columns:
        return {}
    plan = plan_ids([(table, column) for column in columns], EVENT_ID, "auto", options.max_rejected)
    return dict.fromkeys(columns, plan)


def _events(
    table: RawTable, plans: dict[str, IdPlan], time: TimeRule, options: ImportOptions, reject: Reject
) -> pl.LazyFrame:
    """The usable events, their values in the dataset's terms."""
    kinds = table.columns()
    plans = plans | _event_id_plans(table, options)
    rules = column_rules(table, options.event_names) + ([] if time.rule is None else [time.rule])
    checks = [WELL_FORMED]
    for column, plan in plans.items():
        checks += plan.checks(column, kinds[column], required=column != CLICK_ID)
    for rule in rules:
        checks += rule.checks
    reject(failing(table, checks))
    frame = passing(table.frame, checks).with_columns(rule.value for rule in rules)
    for column, plan in plans.items():
        frame = plan.encode(frame, column)
    frame = _with_event_ids(RawTable(table.file, frame), reject)
    return frame if time.kind == "real" else _with_positions(frame, ordered=time.rule is not None)


def _with_event_ids(table: RawTable, reject: Reject) -> pl.LazyFrame:
    """Events with an id each: their own, of which the first counts, or the number of their row."""
    if EVENT_ID not in table.columns():
        return table.frame.with_columns(pl.col(ROW).alias(EVENT_ID))
    repeated = [Check(~pl.col(EVENT_ID).is_first_distinct(), pl.lit("its event_id stands in an earlier row"))]
    reject(failing(table, repeated))
    return passing(table.frame, repeated)


def _with_positions(frame: pl.LazyFrame, *, ordered: bool) -> pl.LazyFrame:
    """Events with the 0-based position in their user's history for a time."""
    if ordered:
        frame = frame.sort(ORDER, maintain_order=True)
    return frame.with_columns(pl.int_range(pl.len()).over(USER_ID).alias(TIMESTAMP_MS))


def _entities(table: RawTable, id_column: str, plan: IdPlan, reject: Reject) -> pl.DataFrame:
    """A table of items or users: Int64 ids, each once, and typed attributes."""
    raw = RawTable(table.file, table.frame.collect().lazy(), table.typed)
    checks = [WELL_FORMED, *plan.checks(id_column, raw.columns()[id_column])]
    if CREATED_MS in raw.columns():
        times = plan_times(raw, CREATED_MS)
        created = times.milliseconds(CREATED_MS, raw.columns()[CREATED_MS])
        checks += times.checks(CREATED_MS, raw.columns()[CREATED_MS], required=False)
    reject(failing(raw, checks))
    frame = passing(raw.frame, checks)
    if CREATED_MS in raw.columns():
        frame = frame.with_columns(created.alias(CREATED_MS))
    encoded = RawTable(table.file, plan.encode(frame, id_column))
    repeated = [Check(~pl.col(id_column).is_first_distinct(), pl.lit(f"its {id_column} stands in an earlier row"))]
    reject(failing(encoded, repeated))
    rows = passing(encoded.frame, repeated).collect()
    attributes = type_attributes(rows.drop(*PLACE, id_column), typed=table.typed, source=str(table.file))
    return attributes.insert_column(0, rows[id_column])

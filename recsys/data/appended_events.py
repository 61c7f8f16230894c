"""Events to append to a dataset: drained parts or a table, read, checked and typed as the dataset is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from recsys.columns import CLICK_ID, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.checks import WELL_FORMED, Check, Rejected, failing, passing
from recsys.data.dataset import Dataset
from recsys.data.event_columns import ColumnRule, column_rules, time_rule
from recsys.data.event_file import EVENT_SCHEMA, as_events
from recsys.data.event_ids import with_content_ids
from recsys.data.id_columns import IdPlan, count_ids, plan_ids
from recsys.data.named_ids import KEY_OF, resolve_ids
from recsys.data.readers.column_map import EVENT_COLUMNS, check_sources, recognise
from recsys.data.readers.raw import FILE, ORDER, PLACE, ROW, TEXT, RawTable
from recsys.data.readers.table import open_table
from recsys.data.readers.text import first_sentence
from recsys.errors import DataError

EVENT_NAMES_FLAG: Final = "--event-names"
_COLUMNS: Final = tuple(name for name in EVENT_COLUMNS if name != ORDER)

Reject = Callable[[Rejected], None]


@dataclass(frozen=True, slots=True, eq=False)
class NewEvents:
    """Events to append, all of them sound.

    Attributes:
        rows: columns of EVENT_SCHEMA, and where each row stands.
        total: rows that there were.
        own_ids: whether they came with ids.
        keys: for an id column whose ids are hashes, the dictionary of the strings that rows name.
    """

    rows: pl.DataFrame
    total: int
    own_ids: bool
    keys: Mapping[str, pl.DataFrame]

    @classmethod
    def none(cls) -> NewEvents:
        """No events."""
        return cls(pl.DataFrame(schema=EVENT_SCHEMA), 0, True, {})


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """Rows of all files with their places; whether they are Parquet, and their times in the dataset's own form."""

    rows: pl.DataFrame
    typed: bool
    exact: bool


def read_new_events(
    path: Path,
    dataset: Dataset,
    columns: Mapping[str, str],
    event_names: Mapping[str, str],
    max_rejected: float,
    reject: Reject,
) -> NewEvents:
    """Reads events and checks them against what the dataset is; they must fit in memory.

    Args:
        path: a CSV or Parquet file, or a folder of Parquet files such as `recsys events drain` writes.
        dataset: what they are appended to.
        columns: dataset column → column of the file; empty = by their names.
        event_names: a source's word for an event → impression, click or conversion.
        max_rejected: share of rows that may be left out.
        reject: told of the rows that are.

    Raises:
        DataError: for a source that cannot be read, or whose times, ids or columns are not the dataset's.
    """
    if dataset.info.time == "order":
        raise DataError(
            f"{dataset.path}: its times are only the order of each user's events, so events with real times cannot be "
            "put among them; import the data again with timestamp_ms=… to append to them"
        )
    files = _files(path)
    if not files:
        return NewEvents.none()
    source = _read(files, columns)
    rows, rules, keys = _resolved(source.rows, dataset)
    table = with_text(path, rows, source.typed)
    rules += [*column_rules(table, event_names, EVENT_NAMES_FLAG), _time_rule(table, source.exact)]
    plans = _event_id_plans(table, max_rejected)
    checks = [WELL_FORMED, *(check for rule in rules for check in rule.checks)]
    for column, plan in plans.items():
        checks += plan.checks(column, rows.schema[column], required=column == EVENT_ID)
    reject(failing(table, checks, rows.height))
    sound = passing(table.frame, checks).with_columns(rule.value for rule in rules)
    for column, plan in plans.items():
        sound = plan.encode(sound, column)
    own_ids = EVENT_ID in plans
    return NewEvents(_as_events(sound.collect(), own_ids=own_ids), rows.height, own_ids, keys)


def _resolved(rows: pl.DataFrame, dataset: Dataset) -> tuple[pl.DataFrame, list[ColumnRule], dict[str, pl.DataFrame]]:
    """Rows with their users and items found, the rules of these, and the dictionaries of the keys that rows name."""
    rules, keys = [], {}
    for column, dictionary in ((USER_ID, dataset.user_keys()), (ITEM_ID, dataset.item_keys())):
        found = resolve_ids(rows, column, KEY_OF[column], dictionary)
        rows = found.rows
        rules.append(ColumnRule(found.checks, found.value))
        if found.keys is not None:
            keys[column] = found.keys
    return rows, rules, keys


def with_text(file: Path, rows: pl.DataFrame, typed: bool = True) -> RawTable:
    """Rows as a table of which any row's text can be told; made from its values where it is not there."""
    frame = rows.lazy()
    if TEXT not in rows.columns:
        values = [name for name in rows.columns if not name.startswith("__")]
        frame = frame.with_columns(pl.struct(values).struct.json_encode().alias(TEXT))
    return RawTable(file, frame, typed)


def _files(path: Path) -> list[Path]:
    """The file, or the Parquet files of a folder in the order of their names; none of an empty folder."""
    if not path.is_dir():
        return [path]
    there = [file for file in path.iterdir() if not file.name.startswith(".")]
    files = sorted(file for file in there if file.suffix == ".parquet")
    if there and not files:
        raise DataError(f"{path} has no .parquet file; give a file, or a folder that `recsys events drain` wrote")
    return files


def _read(files: Sequence[Path], columns: Mapping[str, str]) -> _Source:
    frames, exact = [], True
    for file in files:
        table = open_table(file)
        chosen = _chosen(file, list(table.columns()), columns)
        exact = exact and table.typed and chosen[TIMESTAMP_MS] == TIMESTAMP_MS
        # The text of a Parquet row is made from its values when it is wanted.
        places = [name for name in PLACE if not (table.typed and name == TEXT)]
        values = [pl.col(source).alias(name) for name, source in chosen.items()]
        frames.append(table.frame.select(*places, pl.lit(file.name).alias(FILE), *values).sort(ROW).collect())
    try:
        return _Source(pl.concat(frames, how="diagonal"), table.typed, exact)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{files[0].parent}: its files differ in their columns ({first_sentence(error)}); append them one by one"
        ) from None


def _chosen(file: Path, present: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Which column of a file is which column of an event."""
    chosen = dict(columns) or recognise(present, _COLUMNS)
    chosen |= {key: key for key in KEY_OF.values() if key in present}
    check_sources(file, present, chosen)
    for name in (USER_ID, ITEM_ID, TIMESTAMP_MS):
        if name not in chosen and KEY_OF.get(name) not in chosen:
            raise DataError(f"{file}: which column is {name}? Say --columns {name}=…; it has: {', '.join(present)}")
    return chosen


def _time_rule(table: RawTable, exact: bool) -> ColumnRule:
    """How times are read: a dataset's own form as it stands, anything else as an import reads it."""
    if exact and table.columns()[TIMESTAMP_MS].is_integer():
        return ColumnRule(
            [Check(pl.col(TIMESTAMP_MS).is_null(), pl.lit(f"{TIMESTAMP_MS} is empty"))], pl.col(TIMESTAMP_MS)
        )
    (rule,) = time_rule(table).rules
    return rule


def _event_id_plans(table: RawTable, max_rejected: float) -> dict[str, IdPlan]:
    """How the ids of events are read, and of the clicks that they name; empty where events have none."""
    named = [column for column in (EVENT_ID, CLICK_ID) if column in table.columns()]
    if not named:
        return {}
    counts = count_ids(table, named)
    plan = plan_ids([(table, column, counts) for column in named], named[0], "auto", max_rejected)
    return dict.fromkeys(named, plan)


def _as_events(sound: pl.DataFrame, *, own_ids: bool) -> pl.DataFrame:
    """Rows in the types of events, with the places where they stand."""
    if not own_ids:
        sound = sound.with_columns(pl.lit(0, pl.Int64).alias(EVENT_ID))
    events = as_events(sound.lazy()).collect()
    events = events if own_ids else with_content_ids(events)
    return events.hstack(sound.select(name for name in (*PLACE, FILE) if name in sound.columns))

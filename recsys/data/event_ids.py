"""What makes an event one event: its id, or what it says; and how real ids and numbers of rows get along.

An event that comes without an id gets one from what it says: the same user, item, type and time are the same
event. The ids of a dataset whose source had none are the numbers of the source's rows, 0 to n-1. An id below n
that an event brings later belongs to another world: unless that row is this very event, the event is renamed to
an id above all such numbers, made from its own alone. So a click is renamed to what a conversion that names it
is made to name, whichever of the two comes first, and a second delivery is renamed to the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import polars as pl

from recsys.columns import CLICK_ID, EVENT, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID, EventType
from recsys.data.string_ids import hash_key

CONTENT: Final = (USER_ID, ITEM_ID, EVENT, TIMESTAMP_MS)
"""What an event says: two events of one id must agree in these. A click_id or value may come late."""

_ABOVE_ROWS: Final = 1 << 62

CONFLICT: Final = "__conflict"
"""Column that says why a row cannot be taken."""
_HELD: Final = "__held_"
_SAME: Final = "__same"
_NEW: Final = "__new"


def content_event_id(user_id: int, item_id: int, kind: EventType | str, timestamp_ms: int) -> int:
    """The id of an event that came without one."""
    return hash_key(f"{user_id} {item_id} {kind} {timestamp_ms}")


def renamed_event_id(event_id: int) -> int:
    """What an event is called whose own id is the number of a row: at least 2**62."""
    return hash_key(f"event {event_id}") | _ABOVE_ROWS


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """New events beside those that a dataset holds.

    Attributes:
        added: events that the dataset lacks, each once, under the ids that they get in it.
        duplicates: how many are there already, in the dataset or in an earlier row.
        conflicts: rows with the id of another event, and the column CONFLICT.
    """

    added: pl.DataFrame
    duplicates: int
    conflicts: pl.DataFrame


def with_content_ids(events: pl.DataFrame) -> pl.DataFrame:
    """Events without ids, with ids made from what they say."""
    ids = [content_event_id(*row) for row in events.select(CONTENT).iter_rows()]
    return events.with_columns(pl.Series(EVENT_ID, ids, pl.Int64))


def settle(events: pl.DataFrame, held: Iterable[pl.DataFrame], row_ids: int, *, own_ids: bool) -> Settled:
    """Tells what is new from what a dataset holds, and gives new events the ids that they get in it.

    Args:
        events: new ones, columns of EVENT_SCHEMA and any others.
        held: the dataset's events, batch by batch; read once, what concerns none of the new is let go.
        row_ids: the dataset's: ids below it are numbers of source rows.
        own_ids: whether the new events came with ids; without, a row of the source that says the same
            is the same event.
    """
    known = _concerned(events, held, row_ids, own_ids)
    if not own_ids:
        rows = known.filter(pl.col(EVENT_ID).is_between(0, row_ids, closed="left")).unique(CONTENT)
        events = _take_ids_of(events, rows)
    events = _make_room(events, known, row_ids)
    before = known.select(EVENT_ID, *(pl.col(name).alias(_HELD + name) for name in CONTENT))
    told = events.join(before, on=EVENT_ID, how="left", maintain_order="left")
    first = [pl.col(name).first().over(EVENT_ID) for name in CONTENT]
    same = pl.all_horizontal(
        pl.col(name) == pl.coalesce(_HELD + name, of) for name, of in zip(CONTENT, first, strict=True)
    )
    in_dataset = pl.col(_HELD + USER_ID).is_not_null()
    new = ~in_dataset & pl.col(EVENT_ID).is_first_distinct()
    told = told.with_columns(same.alias(_SAME), new.alias(_NEW))
    where = pl.when(in_dataset).then(pl.lit("the dataset")).otherwise(pl.lit("an earlier row"))
    reason = pl.format("event_id {} is that of another event in {}", EVENT_ID, where).alias(CONFLICT)
    return Settled(
        added=told.filter(_NEW).select(events.columns),
        duplicates=told.filter(_SAME, ~pl.col(_NEW)).height,
        conflicts=told.filter(~pl.col(_SAME)).select(*events.columns, reason),
    )


def _concerned(events: pl.DataFrame, held: Iterable[pl.DataFrame], row_ids: int, own_ids: bool) -> pl.DataFrame:
    """The events of a dataset, id and content, that a new one may be the same as."""
    given = events[EVENT_ID]
    ids = pl.concat([given, _renamed(_below(given, row_ids))]).unique().to_frame()
    columns = [EVENT_ID, *CONTENT]
    found = [pl.DataFrame(schema={name: events.schema[name] for name in columns})]
    for batch in held:
        batch = batch.select(columns)
        found.append(batch.join(ids, on=EVENT_ID, how="semi"))
        if row_ids and not own_ids:
            found.append(batch.join(events.select(CONTENT), on=CONTENT, how="semi"))
    return pl.concat(found).unique(EVENT_ID)


def _take_ids_of(events: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Events that say what a row of the source says get its id."""
    numbered = rows.select(*CONTENT, pl.col(EVENT_ID).alias(_HELD))
    joined = events.join(numbered, on=CONTENT, how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce(_HELD, EVENT_ID).alias(EVENT_ID)).drop(_HELD)


def _make_room(events: pl.DataFrame, known: pl.DataFrame, row_ids: int) -> pl.DataFrame:
    """Renames events whose id is the number of a row that is not they, and what names them as a click."""
    rows = events.join(known, on=[EVENT_ID, *CONTENT], how="semi")[EVENT_ID]
    named = pl.concat([events[EVENT_ID], events[CLICK_ID].alias(EVENT_ID)]).drop_nulls().unique()
    taken = _below(named, row_ids)
    taken = taken.filter(~taken.is_in(rows.implode()))
    return events.with_columns(pl.col(EVENT_ID, CLICK_ID).replace(taken, _renamed(taken)))


def _below(ids: pl.Series, row_ids: int) -> pl.Series:
    return ids.filter((ids >= 0) & (ids < row_ids))


def _renamed(ids: pl.Series) -> pl.Series:
    return pl.Series(ids.name, map(renamed_event_id, ids), pl.Int64)

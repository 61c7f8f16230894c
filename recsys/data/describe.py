"""What a dataset holds, in figures: sizes, time span, density, columns, lengths of histories, first rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import polars as pl

from recsys.columns import EVENT, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.config import Config
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset, DatasetInfo
from recsys.data.interactions import Interactions

_QUANTILES: Final = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
_FIRST: Final = 5


class Column(Config):
    """One attribute column: its type, how many different values, how many missing, and an example."""

    name: str
    kind: str
    distinct: int
    missing: int
    example: str


class Description(Config):
    """Everything that `recsys data describe` says.

    Attributes:
        info: what dataset.json says.
        first, last: of the events, ISO 8601 UTC; None for order-only data.
        density: share of user-item pairs with a click or conversion.
        history_lengths: quantile → clicks and conversions of a user (users with any).
        items, users: their attribute columns.
        first_events: the oldest events, with titles.
    """

    info: DatasetInfo
    first: str | None
    last: str | None
    density: float
    history_lengths: dict[str, float]
    items: list[Column]
    users: list[Column]
    first_events: list[dict[str, Any]]


def describe(dataset: Dataset) -> Description:
    """Reads a dataset through and sums it up."""
    catalogue = Catalogue.from_dataset(dataset)
    interactions = Interactions.from_events(dataset.events(), catalogue)
    first, last = _span(dataset)
    counts = dataset.info.counts
    pairs = int(np.count_nonzero(interactions.first_occurrence()))
    quantiles = np.quantile(interactions.lengths, _QUANTILES) if len(interactions) else np.zeros(len(_QUANTILES))
    return Description(
        info=dataset.info,
        first=first,
        last=last,
        density=pairs / (counts.users * counts.items),
        history_lengths={f"{share:g}": float(value) for share, value in zip(_QUANTILES, quantiles, strict=True)},
        items=_columns(dataset.items(), ITEM_ID),
        users=_columns(dataset.users(), USER_ID),
        first_events=_first_events(dataset, catalogue),
    )


def _span(dataset: Dataset) -> tuple[str | None, str | None]:
    if dataset.info.time == "order":
        return None, None
    time = pl.col(TIMESTAMP_MS)
    low, high = dataset.events().select(time.min().alias("first"), time.max().alias("last")).collect().row(0)
    return _iso(low), _iso(high)


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _columns(frame: pl.DataFrame, id_column: str) -> list[Column]:
    return [_column(frame[name]) for name in frame.columns if name != id_column]


def _column(column: pl.Series) -> Column:
    values = column.drop_nulls()
    example = values[0] if len(values) else None
    if isinstance(column.dtype, pl.List):
        kind = f"list of {_kind(column.dtype.inner)}"
        distinct = values.explode().drop_nulls().n_unique()
        example = "|".join(map(str, example)) if example is not None else None
    else:
        kind, distinct = _kind(column.dtype), values.n_unique()
    text = "" if example is None else str(example)
    return Column(name=column.name, kind=kind, distinct=distinct, missing=column.null_count(), example=text)


def _kind(kind: Any) -> str:
    if kind.is_integer():
        return "integer"
    if kind.is_float():
        return "number"
    return {"String": "text", "Boolean": "boolean"}.get(str(kind), str(kind))


def _first_events(dataset: Dataset, catalogue: Catalogue) -> list[dict[str, Any]]:
    rows = dataset.events().head(_FIRST).collect()
    titles = catalogue.titles()
    return [
        {
            USER_ID: row[USER_ID],
            ITEM_ID: row[ITEM_ID],
            "title": titles[at],
            EVENT: row[EVENT],
            "time": row[TIMESTAMP_MS] if dataset.info.time == "order" else _iso(row[TIMESTAMP_MS]),
        }
        for row, at in zip(rows.iter_rows(named=True), catalogue.rows_of(rows[ITEM_ID].to_numpy()), strict=True)
    ]

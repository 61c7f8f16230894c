"""Cold items: test events whose item training has never seen, looked for among the whole catalogue.

The protocols ask only for items that were known when training ended. Here the others are asked for: only a model that
reads attributes can tell them from each other, one that knows items by their ids alone finds none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl

from recsys.columns import CREATED_MS, ITEM_ID, TITLE
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import EvaluationSet
from recsys.data.splits import Split
from recsys.evaluate import charts
from recsys.evaluate.bootstrap import bootstrap
from recsys.evaluate.markup import percent
from recsys.evaluate.metrics import PerEvent, Ranks, recall
from recsys.evaluate.ranking import rank_channel
from recsys.evaluate.results import Interval, Progress
from recsys.evaluate.sampling import draw_users
from recsys.evaluate.section import Figure, Section, Table
from recsys.retrieval.channel import Channel
from recsys.types import Rows

MOST_EVENTS: Final = 10_000
"""Test events, at most."""
LEAST_EVENTS: Final = 20
"""Of fewer nothing is shown: their intervals would say nothing."""
LENGTHS: Final = (10, 50, 100)
MEASURES: Final[Mapping[str, Callable[[Ranks], PerEvent]]] = {f"recall@{k}": partial(recall, k=k) for k in LENGTHS}


@dataclass(frozen=True, slots=True)
class Found:
    """What one channel found of the cold items: means over test events, and their 95 % intervals."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]

    def as_json(self) -> dict[str, Any]:
        """The channel's entry in report.json."""
        return {
            **{name: round(value, 6) for name, value in self.metrics.items()},
            "ci95": {name: [round(low, 6), round(high, 6)] for name, (low, high) in self.intervals.items()},
        }


@dataclass(frozen=True, slots=True)
class ColdItems:
    """All channels.

    Attributes:
        events, users, items: test events of cold items, their users, and how many different items they are.
        asked: how many of the events were asked about.
        described: share of those items with an attribute beside title and date of creation.
        candidates: the whole catalogue.
        attributes: names of the attributes that items have.
        chance: recall of a random order.
        channels: by name.
    """

    events: int
    users: int
    items: int
    asked: int
    described: float
    candidates: int
    attributes: Sequence[str]
    chance: Mapping[str, float]
    channels: Mapping[str, Found]

    @property
    def key(self) -> str:
        """Its entry under the protocol in report.json."""
        return "cold_items"

    def as_json(self) -> dict[str, Any]:
        """See `Study.as_json`."""
        return {
            "events": self.events,
            "users": self.users,
            "items": self.items,
            "asked": self.asked,
            "described": round(self.described, 6),
            "candidates": self.candidates,
            "chance": {name: round(value, 6) for name, value in self.chance.items()},
            "channels": {name: found.as_json() for name, found in self.channels.items()},
        }

    def section(self) -> Section:
        """See `Study.section`."""
        title = "Cold items: what training has never seen"
        if not self.events:
            return Section(title, "Every item of the test events has a training event, so there is none to look for.")
        if self.events < LEAST_EVENTS:
            return Section(title, f"Only {self.events} test events are of items without any training event: too few.")
        intro = (
            f"{self.events:,} test events of {self.users:,} users are of {self.items:,} items without any training "
            f"event. Here all {self.candidates:,} items of the catalogue are candidates, less the user's own. "
            f"{self._known()} A model that knows items by id alone finds none but by luck. Chance is a random order."
        )
        if self.asked < self.events:
            intro += f" {self.asked:,} of the events were asked about, of users drawn at random."
        return Section(title, intro, (self._figure(), self._table()))

    def _known(self) -> str:
        if not self.attributes:
            return "Items have no attributes here, so nothing tells new ones apart."
        return f"{percent(self.described)} of them have attributes ({', '.join(self.attributes)})."

    def _figure(self) -> Figure:
        at, chance = "recall@50", self.chance["recall@50"]
        rows = [
            charts.Bar(name, found.metrics[at], percent(found.metrics[at]), found.intervals[at], "model")
            for name, found in self.channels.items()
        ]
        rows.append(charts.Bar("chance", chance, percent(chance)))
        described = "; ".join(f"{bar.label} {bar.text}" for bar in rows)
        return Figure(charts.bars(rows, "Recall@50 of cold items", described), "Recall@50 with 95 % intervals.")

    def _table(self) -> Table:
        rows: list[list[str | float]] = [_row(name, found) for name, found in self.channels.items()]
        rows.append(["chance", *(value for name in MEASURES for value in (self.chance[name], ""))])
        columns = [heading for k in LENGTHS for heading in (f"Recall@{k}", "95 %")]
        return Table(("channel", *columns), rows, "Shares of the test events whose cold item is among the first.")


def cold_events(divided: Split, items: int) -> EvaluationSet:
    """The test events of items without a click or conversion in training; every item is a candidate.

    As under the protocols, an item that the user already had is no target.

    Args:
        divided: with a test part, by position or time.
        items: N, size of the catalogue.
    """
    everything, known = divided.everything, divided.known
    lengths = np.zeros(len(everything), np.int64)
    lengths[np.searchsorted(everything.user_ids, known.user_ids)] = known.lengths
    place = np.arange(everything.size) - np.repeat(everything.offsets[:-1], everything.lengths)
    seen = np.bincount(divided.train.rows, minlength=items) > 0
    later = place >= np.repeat(lengths, everything.lengths)
    flat = np.flatnonzero(later & ~seen[everything.rows] & everything.first_occurrence())
    user = everything.user_of()[flat]
    return EvaluationSet(everything, user, place[flat].astype(np.int32), everything.rows[flat])


def cold_items(
    channels: Mapping[str, Channel],
    divided: Split,
    catalogue: Catalogue,
    attributes: pl.DataFrame | None,
    progress: Progress,
) -> ColdItems:
    """Asks every channel for the cold items of the test events.

    Args:
        channels: by name.
        divided: with a test part.
        catalogue: of the bundle; cold items are in it, as all of the dataset.
        attributes: of the users.
        progress: told what is happening.
    """
    events, size = cold_events(divided, len(catalogue)), len(catalogue)
    asked = draw_users(events, MOST_EVENTS)
    names = [name for name in catalogue.attribute_names if name not in (TITLE, CREATED_MS)]
    rankings = []
    for name, channel in channels.items() if len(asked) else ():
        progress.start(f"{name}, cold items", len(asked))
        rankings.append(rank_channel(channel, asked, size, attributes, progress.advance).ranks)
    return ColdItems(
        events=len(events),
        users=len(np.unique(events.user)),
        items=len(np.unique(events.target)),
        asked=len(asked),
        described=_described(catalogue, np.unique(events.target), names),
        candidates=size,
        attributes=names,
        chance=_chance(asked, size),
        channels=_found(list(channels), rankings, asked),
    )


def _found(names: Sequence[str], rankings: Sequence[Ranks], events: EvaluationSet) -> dict[str, Found]:
    if not rankings:
        return {}
    resampled = bootstrap([measure(ranks) for ranks in rankings for measure in MEASURES.values()], events.user)
    found = {}
    for i, name in enumerate(names):
        columns = {measure: i * len(MEASURES) + j for j, measure in enumerate(MEASURES)}
        metrics = {measure: float(resampled.means[column]) for measure, column in columns.items()}
        found[name] = Found(metrics, {measure: resampled.interval(column) for measure, column in columns.items()})
    return found


def _chance(events: EvaluationSet, items: int) -> dict[str, float]:
    """Recall of a random order of what each user does not have yet."""
    left = np.maximum(items - events.history_end, 1)
    return {f"recall@{k}": float(np.minimum(k / left, 1.0).mean()) if len(left) else 0.0 for k in LENGTHS}


def _described(catalogue: Catalogue, rows: Rows, names: Sequence[str]) -> float:
    """Share of the rows with a value in one of the columns."""
    if not len(rows) or not names:
        return 0.0
    frame = catalogue.frame.select(ITEM_ID, *names)[rows.tolist()]
    return float(frame.select(pl.any_horizontal(pl.col(*names).is_not_null()).mean()).item())


def _row(name: str, found: Found) -> list[str | float]:
    cells: list[str | float] = [name]
    for measure in MEASURES:
        low, high = found.intervals[measure]
        cells += [found.metrics[measure], f"{low:.4f} – {high:.4f}"]
    return cells

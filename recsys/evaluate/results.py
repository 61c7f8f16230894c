"""What an evaluation found out, before it becomes JSON and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.data.interactions import EvaluationSet, Interactions
from recsys.evaluate.bootstrap import Resampled, bootstrap
from recsys.evaluate.metrics import (
    EVENT_METRICS,
    coverage,
    gini,
    popularity_percentile,
    share_of,
)
from recsys.evaluate.ranking import Ranking, eligible_count
from recsys.types import Bools

Interval: TypeAlias = tuple[float, float]
Leads: TypeAlias = Mapping[str, tuple[float, Interval]]
"""Measure → (difference of two models, its paired 95 % interval)."""
Kind: TypeAlias = Literal["channel", "cascade", "baseline", "ceiling"]

NEW_SHARE = 0.1
"""An item is new when its first training event lies in this last share of the training time."""


class Progress(Protocol):
    """Told what an evaluation is doing."""

    def start(self, message: str, total: int) -> None:
        """A new step of `total` units begins."""
        ...

    def advance(self, done: int) -> None:
        """`done` more units of the present step are finished."""
        ...


class Quiet:
    """A progress that nobody watches."""

    def start(self, message: str, total: int) -> None:
        """Does nothing."""

    def advance(self, done: int) -> None:
        """Does nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Contestant:
    """One model that was ranked: a row of the report.

    Attributes:
        name: as in report.json.
        kind: a channel of the bundle, its whole cascade, a yardstick, or what the truth of simulated data allows.
        ranking: where the targets ended up.
        served: whether the bundle serves it (a yardstick may be a channel too).
        note: settings chosen, and among which.
        fit_seconds: spent on fitting all settings, yardsticks only.
    """

    name: str
    kind: Kind
    ranking: Ranking
    served: bool = True
    note: str = ""
    fit_seconds: float = 0.0

    @property
    def is_ours(self) -> bool:
        """Whether it is what the bundle brings beside yardsticks."""
        return self.kind in ("channel", "cascade")


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The measures of one contestant.

    Attributes:
        metrics: means over test events, and coverage@100, under the names of report.json.
        intervals: 95 % interval of each mean.
        leads: yardstick → its leads over it; only of what the bundle brings.
        best_yardstick: the one with the best NDCG@10 of all; None without any.
        lists: how the recommended items lie: popularity percentile, Gini, share of new items (None without times).
    """

    contestant: Contestant
    n: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    leads: Mapping[str, Leads]
    best_yardstick: str | None
    lists: Mapping[str, float | None]

    @property
    def lead(self) -> Leads:
        """Over the best yardstick; nothing for what is none of the bundle's own."""
        return self.leads.get(self.best_yardstick or "", {})

    @property
    def name(self) -> str:
        """As in report.json."""
        return self.contestant.name

    def as_json(self) -> dict[str, Any]:
        """The model's row of report.json."""
        return {
            "n": self.n,
            **{name: round(value, 6) for name, value in self.metrics.items()},
            "ci95": {name: [round(low, 6), round(high, 6)] for name, (low, high) in self.intervals.items()},
        }

    def leads_as_json(self) -> dict[str, Any]:
        """Of report.json: yardstick → measure → [difference, low, high]."""
        return {
            yardstick: {name: [round(of, 6) for of in (lead, *interval)] for name, (lead, interval) in leads.items()}
            for yardstick, leads in self.leads.items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class ItemFacts:
    """What is known of the N items from training alone.

    Attributes:
        popularity: (N,) training events.
        new: (N,) first seen at the end of training; None where times are only an order.
    """

    popularity: NDArray[np.int64]
    new: Bools | None

    @classmethod
    def of(cls, train: Interactions, items: int, real_times: bool) -> ItemFacts:
        """Counts the training events and finds the newcomers."""
        popularity = np.bincount(train.rows, minlength=items)
        if not real_times or not train.size:
            return cls(popularity, None)
        times = train.timestamps_ms
        first = np.full(items, np.iinfo(np.int64).max)
        np.minimum.at(first, train.rows, times)
        threshold = times.max() - NEW_SHARE * (times.max() - times.min())
        return cls(popularity, (popularity > 0) & (first >= threshold))


def measure(contestants: Sequence[Contestant], events: EvaluationSet, facts: ItemFacts) -> list[ModelResult]:
    """Means, intervals and paired leads of every contestant, under the same resamples of users."""
    names = list(EVENT_METRICS)
    resampled = bootstrap(
        (metric(one.ranking.ranks) for one in contestants for metric in EVENT_METRICS.values()), events.user
    )
    columns = [{name: i * len(names) + j for j, name in enumerate(names)} for i in range(len(contestants))]
    yardsticks = {one.name: of for one, of in zip(contestants, columns, strict=True) if one.kind == "baseline"}
    best = max(yardsticks, key=lambda name: float(resampled.means[yardsticks[name]["ndcg@10"]]), default=None)
    return [
        ModelResult(
            contestant=one,
            n=len(events),
            metrics=_means(one, of, resampled, events),
            intervals={name: resampled.interval(column) for name, column in of.items()},
            leads={name: _leads(of, other, resampled) for name, other in yardsticks.items() if one.is_ours},
            best_yardstick=best,
            lists=_lists(one.ranking.recommended, events, facts),
        )
        for one, of in zip(contestants, columns, strict=True)
    ]


def _means(
    one: Contestant, columns: Mapping[str, int], resampled: Resampled, events: EvaluationSet
) -> dict[str, float]:
    recommended = one.ranking.recommended
    covered = coverage(recommended, eligible_count(events, len(recommended)))
    return {**{name: float(resampled.means[column]) for name, column in columns.items()}, "coverage@100": covered}


def _leads(columns: Mapping[str, int], others: Mapping[str, int], resampled: Resampled) -> Leads:
    return {
        name: (
            float(resampled.means[column] - resampled.means[others[name]]),
            resampled.difference(column, others[name]),
        )
        for name, column in columns.items()
    }


def _lists(recommended: NDArray[np.int64], events: EvaluationSet, facts: ItemFacts) -> dict[str, float | None]:
    eligible = np.ones(len(recommended), np.bool_) if events.eligible is None else events.eligible.allowed
    return {
        "popularity_percentile@100": popularity_percentile(recommended[eligible], facts.popularity[eligible]),
        "gini@100": gini(recommended[eligible]),
        "new_item_share@100": None if facts.new is None else share_of(recommended, facts.new),
    }


@dataclass(frozen=True, slots=True)
class Slice:
    """Test events whose users have a history of similar length; measure → model → (mean, interval)."""

    label: str
    n: int
    hit_rate: Mapping[str, tuple[float, Interval]] = field(default_factory=dict)


_EDGES = (1, 5, 10, 20, 50, 100, 200, 500)


def activity_slices(results: Sequence[ModelResult], events: EvaluationSet, least: int = 20) -> list[Slice]:
    """HR@10 by length of the history at the moment of the test event; groups of fewer than `least` are left out."""
    group = np.searchsorted(_EDGES, events.history_end, side="right")
    slices = []
    for number in range(len(_EDGES) + 1):
        chosen = np.flatnonzero(group == number)
        if len(chosen) < least:
            continue
        hits = [EVENT_METRICS["hr@10"](result.contestant.ranking.ranks[chosen]) for result in results]
        resampled = bootstrap(hits, events.user[chosen], resamples=500)
        rates = {result.name: (float(resampled.means[i]), resampled.interval(i)) for i, result in enumerate(results)}
        slices.append(Slice(_label(number), len(chosen), rates))
    return slices


def _label(number: int) -> str:
    """Name of a group: 0, 1–4, 5–9 … 500 or more."""
    if number == 0:
        return "0"
    low = _EDGES[number - 1]
    return f"{low} or more" if number == len(_EDGES) else f"{low}–{_EDGES[number] - 1}"

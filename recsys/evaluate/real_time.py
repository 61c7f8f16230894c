"""What the newest events are worth: the same test events asked of models that know the user up to n events ago.

A service that learns of events at once sees the whole history; one that loads histories every night is some events
behind. Only what a model is told differs: candidates are the same, and all that the user really had stays excluded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl

from recsys.data.interactions import EvaluationSet
from recsys.evaluate import charts
from recsys.evaluate.bootstrap import bootstrap
from recsys.evaluate.markup import pair, signed
from recsys.evaluate.metrics import EVENT_METRICS
from recsys.evaluate.ranking import Ranking, rank_lists
from recsys.evaluate.results import Interval, Progress
from recsys.evaluate.sampling import draw_users, of_events
from recsys.evaluate.section import Block, Figure, Section, Table
from recsys.evaluate.yardstick_models import ages, kept
from recsys.retrieval.channel import Channel
from recsys.retrieval.static_channel import StaticChannel
from recsys.types import Candidates, Users

BEHIND: Final = (20, 5, 1, 0)
"""How many of the user's newest events a model has not heard of; the first stands for a nightly load."""
LEAST_HISTORY: Final = 25
"""Shortest history that is asked about: with the first of `BEHIND` cut off some is left, and all columns are alike."""
MOST_EVENTS: Final = 10_000
"""Test events, at most."""
MEASURES: Final = ("recall@50", "hr@10")

_HEADINGS: Final = {"recall@50": "Recall@50", "hr@10": "HR@10"}


@dataclass(frozen=True, slots=True)
class Moment:
    """One channel that many events behind.

    Attributes:
        behind: newest events that it has not heard of.
        metrics, intervals: means over test events, and their 95 % intervals.
        gain: measure → (what hearing of them adds, its paired 95 % interval); nothing when `behind` is 0.
    """

    behind: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    gain: Mapping[str, tuple[float, Interval]]

    def as_json(self) -> dict[str, Any]:
        """The moment's entry in report.json."""
        return {
            "behind": self.behind,
            **{name: round(value, 6) for name, value in self.metrics.items()},
            "ci95": {name: _rounded(interval) for name, interval in self.intervals.items()},
            "gain": {name: round(value, 6) for name, (value, _) in self.gain.items()},
            "gain_ci95": {name: _rounded(interval) for name, (_, interval) in self.gain.items()},
        }


@dataclass(frozen=True, slots=True)
class RealTime:
    """All channels at all moments.

    Attributes:
        events, users: how many were asked about.
        channels: name → the moments of `BEHIND`.
    """

    events: int
    users: int
    channels: Mapping[str, Sequence[Moment]]

    @property
    def key(self) -> str:
        """Its entry under the protocol in report.json."""
        return "real_time"

    def as_json(self) -> dict[str, Any]:
        """See `Study.as_json`."""
        return {
            "events": self.events,
            "users": self.users,
            "least_history": LEAST_HISTORY,
            "channels": {name: [one.as_json() for one in moments] for name, moments in self.channels.items()},
        }

    def section(self) -> Section:
        """See `Study.section`."""
        title = "Real time: what the newest events are worth"
        if not self.channels:
            missing = "No channel reads the history." if self.events else f"No history is {LEAST_HISTORY} events long."
            return Section(title, missing)
        intro = (
            f"{self.events:,} test events of {self.users:,} users with at least {LEAST_HISTORY} earlier ones, the same "
            "in every column. Each channel is asked as if it had not heard of the user's last 20, 5 or 1 events, and "
            "then with all of them, as a service that records events at once. Candidates and exclusions never change: "
            "only what the model knows does."
        )
        figures = [(f"{_HEADINGS[measure]} as events are revealed", self._figure(measure)) for measure in MEASURES]
        blocks: list[Block] = [pair(figures), *(self._table(measure) for measure in MEASURES)]
        return Section(title, intro, blocks)

    def _figure(self, measure: str) -> Figure:
        lines = [
            charts.Line(
                name,
                [one.metrics[measure] for one in moments],
                f"line-{i}",
                [one.intervals[measure] for one in moments],
            )
            for i, (name, moments) in enumerate(self.channels.items())
        ]
        described = "; ".join(f"{line.label} from {line.values[0]:.3f} to {line.values[-1]:.3f}" for line in lines)
        names = [f"{behind:,}" + _word(behind) for behind in BEHIND]
        label = "newest events the model has not heard of"
        drawn = charts.categories(names, lines, _HEADINGS[measure], described, x_label=label, width=570)
        return Figure(drawn)

    def _table(self, measure: str) -> Table:
        columns = [f"{behind} behind" if behind else "real time" for behind in BEHIND]
        gains = [f"gain on {behind} behind" for behind in BEHIND if behind]
        rows = [_row(name, moments, measure) for name, moments in self.channels.items()]
        caption = f"{_HEADINGS[measure]}; gains of real time with their paired 95 % intervals."
        return Table(("channel", *columns, *gains), rows, caption)


def real_time(
    channels: Mapping[str, Channel],
    events: EvaluationSet,
    items: int,
    attributes: pl.DataFrame | None,
    progress: Progress,
) -> RealTime:
    """Asks every channel that reads a history, some events behind and in real time.

    Args:
        channels: by name; those whose answer is the same for everybody are left out.
        events: the test events; those of shorter histories than `LEAST_HISTORY` are left out.
        items: N, size of the catalogue.
        attributes: of the users.
        progress: told what is happening.
    """
    asked = draw_users(of_events(events, events.history_end >= LEAST_HISTORY), MOST_EVENTS)
    reading = {name: channel for name, channel in channels.items() if not isinstance(channel, StaticChannel)}
    users = len(np.unique(asked.user))
    if not len(asked) or not reading:
        return RealTime(len(asked), users, {})
    rankings = []
    for name, channel in reading.items():
        progress.start(f"{name}, some events behind", len(BEHIND) * len(asked))
        rankings += [_ranked(channel, behind, asked, items, attributes, progress) for behind in BEHIND]
    return RealTime(len(asked), users, _moments(list(reading), rankings, asked))


def unaware(users: Users, behind: int) -> Users:
    """The users as whoever has not heard of their `behind` newest events knows them; exclusions stay."""
    return replace(users, history=kept(users.history, ages(users.history) >= behind))


def _ranked(
    channel: Channel,
    behind: int,
    events: EvaluationSet,
    items: int,
    attributes: pl.DataFrame | None,
    progress: Progress,
) -> Ranking:
    def recall(users: Users, k: int) -> Candidates:
        return channel.recall(unaware(users, behind), k, events.eligible)

    return rank_lists(recall, events, items, attributes, advance=progress.advance)


def _moments(names: Sequence[str], rankings: Sequence[Ranking], events: EvaluationSet) -> dict[str, list[Moment]]:
    """Means, intervals and gains, all under the same resamples of users."""
    columns = [EVENT_METRICS[measure](ranking.ranks) for ranking in rankings for measure in MEASURES]
    resampled = bootstrap(columns, events.user)

    def moment(channel: int, place: int) -> Moment:
        here, last = (
            {name: (channel * len(BEHIND) + at) * len(MEASURES) + i for i, name in enumerate(MEASURES)}
            for at in (place, len(BEHIND) - 1)
        )
        means = resampled.means
        gain = {
            name: (float(means[last[name]] - means[here[name]]), resampled.difference(last[name], here[name]))
            for name in (MEASURES if BEHIND[place] else ())
        }
        return Moment(
            behind=BEHIND[place],
            metrics={name: float(means[column]) for name, column in here.items()},
            intervals={name: resampled.interval(column) for name, column in here.items()},
            gain=gain,
        )

    return {name: [moment(i, place) for place in range(len(BEHIND))] for i, name in enumerate(names)}


def _word(behind: int) -> str:
    """What stands below the number of events on the chart."""
    return {BEHIND[0]: "\nnightly", 0: "\nreal time"}.get(behind, "")


def _row(name: str, moments: Sequence[Moment], measure: str) -> list[str | float]:
    gains = (_gain(one, measure) for one in moments if one.behind)
    return [name, *(one.metrics[measure] for one in moments), *gains]


def _gain(one: Moment, measure: str) -> str:
    value, (low, high) = one.gain[measure]
    return f"{signed(value)} ({signed(low)} to {signed(high)})"


def _rounded(interval: Interval) -> list[float]:
    return [round(bound, 6) for bound in interval]

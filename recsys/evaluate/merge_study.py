"""Whether the merge earns its place: each channel alone, all in turn, and the merged list, at equal length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.cascade.cascade import Cascade
from recsys.cascade.merge import RankCurves
from recsys.data.interactions import EvaluationSet
from recsys.errors import BundleError
from recsys.evaluate import charts
from recsys.evaluate.bootstrap import Resampled, bootstrap
from recsys.evaluate.markup import number, panel, row, signed, table
from recsys.evaluate.metrics import DEPTH, Ranks, ndcg, recall
from recsys.evaluate.ranking import batches, ranks_in_lists
from recsys.evaluate.results import Interval, Progress
from recsys.evaluate.sampling import draw_users
from recsys.evaluate.section import Block, Figure, Html, Section
from recsys.types import Candidates, RowMask, Rows, Users, offsets_of

EVENTS: Final = 20_000
"""Test events that it is measured on, at most."""
LENGTHS: Final = (10, 50, 100, DEPTH)
MEASURES: Final = ("ndcg@10", *(f"recall@{length}" for length in LENGTHS))
MERGED: Final = "merged"
SHORT: Final = "merged_short"
ROUND_ROBIN: Final = "round_robin"
BEST: Final = "best_channel"

_HEADINGS: Final = ("NDCG@10", *(f"Recall@{length}" for length in LENGTHS))
_TITLES: Final = {
    MERGED: "merged",
    SHORT: "merged from lists no longer than the answer",
    ROUND_ROBIN: "in turn (round-robin)",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over test events, or a difference of two, with its 95 % interval."""

    value: float
    interval: Interval

    def as_json(self) -> list[float]:
        """Value, lower and upper end."""
        return [round(number, 6) for number in (self.value, *self.interval)]


@dataclass(frozen=True, slots=True)
class MergeStudy:
    """What the merge gives beside what goes into it.

    Attributes:
        events: test events it was measured on.
        lists: channel, ROUND_ROBIN, SHORT or MERGED → measure → mean.
        best: measure → the channel that is best in it.
        gains: ROUND_ROBIN or BEST → measure → merged less that, paired.
        curves: the rule; None when none was learned.
        key: entry of report.json.
    """

    events: int
    lists: Mapping[str, Mapping[str, Measured]]
    best: Mapping[str, str]
    gains: Mapping[str, Mapping[str, Measured]]
    curves: RankCurves | None
    key: str = "merge"

    def as_json(self) -> dict[str, Any]:
        """See `Study`."""
        return {
            "events": self.events,
            "lists": {name: _as_json(of) for name, of in self.lists.items()},
            "best_channel": dict(self.best),
            "merged_less": {name: _as_json(of) for name, of in self.gains.items()},
        }

    def section(self) -> Section:
        """See `Study`."""
        blocks: list[Block] = [Html(panel(self._table()))]
        if self.curves is not None:
            blocks += [_drawn(self.curves), Html(f"<p>{escape(_lead(self.curves))}</p>")]
        return Section(
            "What the merge gives",
            f"Every list is cut at the same length. In turn: all first places, then all second ones, each row once. "
            f"Merged: from {DEPTH} rows a channel, as for recommendations; a recall of k rows asks each channel for k, "
            "the line above. The rule was learned on validation events; these are test events.",
            blocks,
        )

    def _table(self) -> str:
        rows = [
            row([escape(_TITLES.get(name, name)), *(_cell(of[measure]) for measure in MEASURES)], _kind(name))
            for name, of in self.lists.items()
        ]
        rows.append(self._gain("merged less in turn", self.gains[ROUND_ROBIN]))
        rows.append(self._gain("merged less the best channel", self.gains[BEST], self.best))
        caption = (
            f"Means over {self.events:,} test events, by the order of the lists alone; below them 95 % intervals "
            "(paired bootstrap over users). The best channel is the best of each column."
        )
        return table(("List", *_HEADINGS), rows, caption)

    def _gain(self, title: str, gains: Mapping[str, Measured], over: Mapping[str, str] | None = None) -> str:
        cells = []
        for measure in MEASURES:
            gain = gains[measure]
            name = f'<span class="tag">{escape(over[measure])}</span>' if over else ""
            low, high = (signed(end) for end in gain.interval)
            cells.append(f'{signed(gain.value)}{name}<span class="interval">{low} to {high}</span>')
        return row([title, *cells])


def merge_study(
    cascade: Cascade, events: EvaluationSet, attributes: pl.DataFrame | None, progress: Progress
) -> MergeStudy | None:
    """Asks all channels for DEPTH rows and compares what the cascade makes of them; None with a single channel.

    Args:
        cascade: of the bundle.
        events: test events; of more than `EVENTS` those of users drawn at random.
        attributes: of the users.
        progress: told how far it is.

    Raises:
        BundleError: names the channels that failed.
    """
    if len(cascade.channels) < 2:
        return None
    events = draw_users(events, EVENTS)
    progress.start("merge", len(events))
    found: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for start, users in batches(events, attributes):
        targets = events.target[start : start + len(users)]
        for name, of_batch in _measured(cascade, users, targets, events.eligible).items():
            found[name].append(of_batch)
        progress.advance(len(users))
    columns = (column for parts in found.values() for column in np.concatenate(parts, axis=1))
    return _compared(list(found), bootstrap(columns, events.user), len(events), cascade.config.merge)


def _measured(cascade: Cascade, users: Users, targets: Rows, allowed: RowMask | None) -> dict[str, NDArray[np.float64]]:
    """List → (measures, B) what each event adds to the means."""
    recalled = cascade.recall(users, DEPTH, allowed=allowed)
    if recalled.degraded:
        raise BundleError(f"{', '.join(recalled.degraded)} failed while the merge was evaluated")
    lists = {answer.name: answer.candidates for answer in recalled.channels}
    lists[ROUND_ROBIN] = round_robin(list(lists.values()), DEPTH)
    of_length = {k: cascade.recall(users, k, allowed=allowed).candidates for k in LENGTHS[:-1]}
    of_length[DEPTH] = lists[MERGED] = recalled.candidates
    ranks = {name: ranks_in_lists(one, targets, by_order=True) for name, one in lists.items()}
    short = {k: ranks_in_lists(one, targets, by_order=True) for k, one in of_length.items()}
    columns = {name: _columns(dict.fromkeys(LENGTHS, one)) for name, one in ranks.items()}
    columns[SHORT] = _columns(short)
    columns[MERGED] = columns.pop(MERGED)  # the last row
    return columns


def _columns(ranks: Mapping[int, Ranks]) -> NDArray[np.float64]:
    """(measures, B) from the places of the targets in the list of each length."""
    return np.stack([ndcg(ranks[LENGTHS[0]], LENGTHS[0]), *(recall(ranks[length], length) for length in LENGTHS)])


def round_robin(lists: Sequence[Candidates], k: int) -> Candidates:
    """The k first rows of each user when the lists give one each in turn, a row that was given before left out.

    Scores fall from 1 by position; bit i of a mask is 1 where the i-th list holds the row.

    Args:
        lists: at most 32, over the same B users.
        k: rows a user.
    """
    user = np.concatenate([np.repeat(np.arange(len(one)), one.counts) for one in lists])
    place = np.concatenate([np.arange(len(one.rows)) - np.repeat(one.offsets[:-1], one.counts) for one in lists])
    rows = np.concatenate([one.rows for one in lists])
    channel = np.repeat(np.arange(len(lists)), [len(one.rows) for one in lists])
    order = np.lexsort((channel, place, user))
    cells = (user.astype(np.int64) << 32 | rows)[order]
    _, first, cell = np.unique(cells, return_index=True, return_inverse=True)
    masks = np.zeros(len(first), np.uint32)
    np.bitwise_or.at(masks, cell, np.uint32(1) << channel[order].astype(np.uint32))
    given = np.argsort(first)
    owner = user[order][first[given]]
    at = np.arange(len(owner)) - np.searchsorted(owner, owner)
    kept = at < k
    picked = order[first[given]][kept]
    counts = np.bincount(owner[kept], minlength=len(lists[0]))
    scores = (1.0 / (1.0 + at[kept])).astype(np.float32)
    return Candidates(rows[picked], scores, masks[given][kept], offsets_of(counts))


def _compared(names: Sequence[str], resampled: Resampled, events: int, curves: RankCurves | None) -> MergeStudy:
    at = {(name, m): i * len(MEASURES) + j for i, name in enumerate(names) for j, m in enumerate(MEASURES)}
    means: NDArray[np.float64] = resampled.means
    channels = [name for name in names if name not in (ROUND_ROBIN, SHORT, MERGED)]
    best = {m: max(channels, key=lambda name: float(means[at[name, m]])) for m in MEASURES}

    def gain(measure: str, other: str) -> Measured:
        one, two = at[MERGED, measure], at[other, measure]
        return Measured(float(means[one] - means[two]), resampled.difference(one, two))

    return MergeStudy(
        events=events,
        lists={
            name: {m: Measured(float(means[at[name, m]]), resampled.interval(at[name, m])) for m in MEASURES}
            for name in names
        },
        best=best,
        gains={
            ROUND_ROBIN: {m: gain(m, ROUND_ROBIN) for m in MEASURES},
            BEST: {m: gain(m, best[m]) for m in MEASURES},
        },
        curves=curves,
    )


def _drawn(curves: RankCurves) -> Figure:
    """The log-odds over the places."""
    lines = [
        charts.Line(name, values, f"line-{i % 6}")
        for i, (name, values) in enumerate(sorted(curves.log_odds.items(), key=lambda one: -one[1][0]))
    ]
    described = "; ".join(f"{line.label} from {line.values[0]:.2f}" for line in lines)
    places = [float(place) for place in curves.places]
    drawn = charts.curves(places, lines, "Log-odds by place", described, x_label="place in the channel's list")
    caption = "The rule: what a place in each list adds to the log-odds that its row is the next one chosen."
    return Figure(drawn, caption)


def _lead(curves: RankCurves) -> str:
    if not curves.lead:
        return "No list leads: on validation the merged list was nowhere behind a channel's own."
    return (
        f"The first {curves.lead:,} rows are those of {curves.leader}: with fewer, the merged list was behind a "
        "channel's own at some length on validation."
    )


def _as_json(of: Mapping[str, Measured]) -> dict[str, list[float]]:
    return {measure: one.as_json() for measure, one in of.items()}


def _cell(one: Measured) -> str:
    low, high = one.interval
    return f'{number(one.value)}<span class="interval">{number(low)} – {number(high)}</span>'


def _kind(name: str) -> str:
    return "ours" if name == MERGED else ""

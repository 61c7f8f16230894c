"""Many tastes: does a channel of several interests do better than one of a single vector where tastes are many?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.interactions import EvaluationSet
from recsys.data.marketplace.truth import MarketplaceTruth
from recsys.errors import DataError
from recsys.evaluate import charts
from recsys.evaluate.bootstrap import bootstrap
from recsys.evaluate.categories import Categories
from recsys.evaluate.ceiling import has_truth
from recsys.evaluate.markup import pair, signed
from recsys.evaluate.metrics import EVENT_METRICS, Ranks
from recsys.evaluate.ranking import BATCH, batches
from recsys.evaluate.results import Interval
from recsys.evaluate.section import Block, Figure, Section, Table

MEASURES: Final = ("recall@50", "hr@10")
BUCKETS: Final = 4
LEAST_EVENTS: Final = 20
"""Smaller groups are left out: their intervals say nothing."""
_HEADINGS: Final = {"recall@50": "Recall@50", "hr@10": "HR@10"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """Test events of users with about as many tastes.

    Attributes:
        label: what they have in common.
        n: events.
        several, single: measure → mean of the channel of several interests, and of the one of a single vector.
        lead: measure → (difference, its paired 95 % interval).
    """

    label: str
    n: int
    several: Mapping[str, float]
    single: Mapping[str, float]
    lead: Mapping[str, tuple[float, Interval]]

    def as_json(self) -> dict[str, Any]:
        """The bucket's entry in report.json."""
        return {
            "label": self.label,
            "n": self.n,
            "several": {name: round(value, 6) for name, value in self.several.items()},
            "single": {name: round(value, 6) for name, value in self.single.items()},
            "lead": {name: round(value, 6) for name, (value, _) in self.lead.items()},
            "lead_ci95": {name: [round(low, 6), round(high, 6)] for name, (_, (low, high)) in self.lead.items()},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One division of the test events: by what, and the buckets; or why there are none."""

    by: str
    buckets: Sequence[Bucket]
    why_not: str = ""

    def as_json(self) -> dict[str, Any]:
        """The division's entry in report.json."""
        return {"by": self.by, "buckets": [bucket.as_json() for bucket in self.buckets], "why_not": self.why_not}


@dataclass(frozen=True, slots=True)
class ManyTastes:
    """One channel of several interests against one of a single vector.

    Attributes:
        several, single: names of the channels.
        comparisons: all events; by category entropy; for simulated data by the true number of interests.
    """

    several: str
    single: str
    comparisons: Sequence[Comparison]

    @property
    def key(self) -> str:
        """Its entry under the protocol in report.json."""
        return f"many_tastes_{self.several}"

    def as_json(self) -> dict[str, Any]:
        """See `Study.as_json`."""
        return {
            "several": self.several,
            "single": self.single,
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
        }

    def section(self) -> Section:
        """See `Study.section`."""
        intro = (
            f"{self.several}, several interests a user, against {self.single}, one vector a user, on the same test "
            "events. If interests help, they should help those most whose history is about many kinds of items. Leads "
            "are paired, with 95 % intervals; an interval that holds 0 shows no difference."
        )
        blocks: list[Block] = []
        for comparison in self.comparisons:
            blocks += self._blocks(comparison)
        return Section(f"Many tastes: {self.several} against {self.single}", intro, blocks)

    def _blocks(self, comparison: Comparison) -> list[Block]:
        if not comparison.buckets:
            return [Table(("by", "left out because"), [(comparison.by, comparison.why_not)])]
        columns = ["by " + comparison.by, "test events"]
        parts = (self.several, self.single, "lead")
        columns += [f"{_HEADINGS[measure]}: {part}" for measure in MEASURES for part in parts]
        table = Table(columns, [_row(bucket) for bucket in comparison.buckets])
        if len(comparison.buckets) < 2:
            return [table]
        figures = [(_HEADINGS[measure], self._figure(comparison, measure)) for measure in MEASURES]
        return [pair(figures), table]

    def _figure(self, comparison: Comparison, measure: str) -> Figure:
        buckets = comparison.buckets
        lines = [
            charts.Line(self.several, [bucket.several[measure] for bucket in buckets], "line-0"),
            charts.Line(self.single, [bucket.single[measure] for bucket in buckets], "line-5"),
        ]
        described = "; ".join(f"{bucket.label}: {signed(bucket.lead[measure][0])}" for bucket in buckets)
        names = [f"{bucket.label}\nn = {bucket.n:,}" for bucket in buckets]
        drawn = charts.categories(names, lines, _HEADINGS[measure], described, x_label=comparison.by, width=570)
        return Figure(drawn)


def many_tastes(
    names: tuple[str, str],
    ranks_of: Mapping[str, Ranks],
    events: EvaluationSet,
    catalogue: Catalogue,
    dataset: Dataset,
) -> ManyTastes:
    """Compares two channels over all test events, by category entropy, and by true interests where they are known.

    Args:
        names: of the channel of several interests, and of that of a single vector.
        ranks_of: their (M,) ranks of the targets, by name.
        events: the M test events.
        catalogue: its attributes say what kinds of items there are.
        dataset: simulated ones know how many interests each user has.
    """
    several, single = names
    ranks = (ranks_of[several], ranks_of[single])
    comparisons = [
        Comparison("all test events", _buckets(np.zeros(len(events), np.int64), ["all"], ranks, events)),
        _by_entropy(ranks, events, catalogue),
    ]
    if has_truth(dataset):
        comparisons.append(_by_truth(ranks, events, dataset))
    return ManyTastes(several, single, comparisons)


def _by_entropy(ranks: tuple[Ranks, Ranks], events: EvaluationSet, catalogue: Catalogue) -> Comparison:
    kinds = Categories.of(catalogue)
    if kinds is None:
        why = "no attribute of the items is a text or list that divides them into kinds"
        return Comparison("category entropy of the history", [], why)
    bits = 0.0 + np.concatenate([kinds.entropy(users.history) for _, users in batches(events, None, BATCH)])
    edges = np.unique(np.quantile(bits, np.arange(1, BUCKETS) / BUCKETS))
    bounds = [bits.min(), *edges, bits.max()]
    labels = [f"{low:.2f} – {high:.2f}" for low, high in pairwise(bounds)]
    by = f"entropy of the history's {kinds.column}, bits"
    return Comparison(by, _buckets(np.searchsorted(edges, bits, side="right"), labels, ranks, events))


def _by_truth(ranks: tuple[Ranks, Ranks], events: EvaluationSet, dataset: Dataset) -> Comparison:
    by = "true number of interests"
    try:
        numbers = MarketplaceTruth.open(dataset.path).world.population.interests
    except DataError as error:
        return Comparison(by, [], str(error))
    group = numbers[events.user_ids - 1].astype(np.int64)
    labels = [str(number) for number in range(int(group.max()) + 1)]
    return Comparison(by, _buckets(group, labels, ranks, events))


def _buckets(
    group: NDArray[np.int64], labels: Sequence[str], ranks: tuple[Ranks, Ranks], events: EvaluationSet
) -> list[Bucket]:
    """The groups (M,) that are large enough, in the order of their labels."""
    found = []
    for number, label in enumerate(labels):
        chosen = np.flatnonzero(group == number)
        if len(chosen) < LEAST_EVENTS:
            continue
        columns = [EVENT_METRICS[measure](of[chosen]) for measure in MEASURES for of in ranks]
        resampled, at = bootstrap(columns, events.user[chosen]), {name: 2 * i for i, name in enumerate(MEASURES)}
        several = {name: float(resampled.means[column]) for name, column in at.items()}
        single = {name: float(resampled.means[column + 1]) for name, column in at.items()}
        lead = {
            name: (several[name] - single[name], resampled.difference(column, column + 1))
            for name, column in at.items()
        }
        found.append(Bucket(label, len(chosen), several, single, lead))
    return found


def _row(bucket: Bucket) -> list[str | int | float]:
    cells: list[str | int | float] = [bucket.label, bucket.n]
    for measure in MEASURES:
        value, (low, high) = bucket.lead[measure]
        cells += [bucket.several[measure], bucket.single[measure], f"{signed(value)} ({signed(low)} to {signed(high)})"]
    return cells

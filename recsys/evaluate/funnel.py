"""The whole cascade as a funnel: for every test event, at which stage its item was lost, and what the stage cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.cascade.answers import Ranked
from recsys.cascade.cascade import Cascade
from recsys.data.interactions import EvaluationSet
from recsys.evaluate.bootstrap import bootstrap
from recsys.evaluate.metrics import MISSED
from recsys.evaluate.ranking import Advance, batches, eligible_count, ranks_in_lists
from recsys.evaluate.sampling import draw_users
from recsys.ranking.scorer import Stage
from recsys.types import Bools, Candidates, Users

FINAL: Final = 10
"""Length of the list that a user sees."""
ABLATION_EVENTS: Final = 1_000
"""Test events on which channels are left out in turn, at most."""

StageKind: TypeAlias = Literal["channel", "stage"]


@dataclass(frozen=True, slots=True)
class FunnelStage:
    """One stage, per test event.

    Attributes:
        stage: its name; a channel's own list is "recall:<channel>".
        kind: a channel's list (they are beside each other), or a stage (they follow each other).
        count_in, count_out: mean candidates before and after it.
        recall: share of events whose item is still there after it.
        interval: 95 % interval of the recall.
        lost: share of events whose item was there before the stage and is not after it.
        micros: mean microseconds a user.
    """

    stage: str
    kind: StageKind
    count_in: float
    count_out: float
    recall: float
    interval: tuple[float, float]
    lost: float | None
    micros: float

    def as_json(self) -> dict[str, str | float]:
        """The stage's entry in report.json."""
        return {
            "stage": self.stage,
            "count_in": round(self.count_in, 2),
            "count_out": round(self.count_out, 2),
            "recall": round(self.recall, 6),
            "micros": round(self.micros, 2),
        }


@dataclass(frozen=True, slots=True)
class Ablation:
    """The funnel without one channel: recall after merging and at the end."""

    channel: str
    merged: float
    final: float


@dataclass(frozen=True, slots=True)
class Funnel:
    """All of it.

    Attributes:
        stages: the channels' own lists, then the stages in order.
        whole: recall with all channels on the events of the ablations; None with a single channel.
        ablations: without each channel.
        ablation_events: how many events those were measured on.
        pre_ranking: whether the pre-ranker runs and why, in words; "" without one.
    """

    stages: Sequence[FunnelStage]
    whole: Ablation | None = None
    ablations: Sequence[Ablation] = ()
    ablation_events: int = 0
    pre_ranking: str = ""


@dataclass(slots=True)
class _Tally:
    """What one stage did so far: whether the target is there, candidates, time."""

    kind: StageKind
    there: list[Bools] = field(default_factory=list)
    count_in: int = 0
    count_out: int = 0
    micros: int = 0


def trace(
    cascade: Cascade,
    events: EvaluationSet,
    items: int,
    attributes: pl.DataFrame | None = None,
    advance: Advance = lambda done: None,
) -> Funnel:
    """Runs the cascade to FINAL items for every test event and looks at every list on the way.

    Filters and seen items are part of the search inside each channel, so nothing is lost to them after it.

    Args:
        cascade: of the bundle.
        events: the test events.
        items: N, size of the catalogue.
        attributes: of the users.
        advance: told the progress, ablations not counted.
    """
    tallies: dict[str, _Tally] = {}
    for start, users in batches(events, attributes):
        ranked = cascade.run(users, FINAL, allowed=events.eligible)
        _count(tallies, ranked, events.target[start : start + len(users)])
        advance(len(users))
    whole_catalogue = eligible_count(events, items)
    stages, before = [], None
    for name, tally in tallies.items():
        there = np.concatenate(tally.there)
        stages.append(_stage(name, tally, there, before, events, whole_catalogue))
        before = there if tally.kind == "stage" else None
    funnel = Funnel(stages, pre_ranking=_pre_ranking(cascade))
    return _with_ablations(funnel, cascade, draw_users(events, ABLATION_EVENTS), attributes)


def _count(tallies: dict[str, _Tally], ranked: Ranked, targets: NDArray[np.int32]) -> None:
    """Adds one batch to the tallies."""
    anywhere = np.zeros(len(targets), np.bool_)
    for answer in ranked.channels:
        there = _holds(answer.candidates, targets)
        anywhere |= there
        found = len(answer.candidates.rows)
        _add(tallies, f"recall:{answer.name}", "channel", there, 0, found, answer.micros)
    for stage in ranked.stages:
        there = anywhere if stage.candidates is None else _holds(stage.candidates, targets)
        _add(tallies, stage.name, "stage", there, stage.count_in, stage.count_out, stage.micros)


def _add(
    tallies: dict[str, _Tally], name: str, kind: StageKind, there: Bools, count_in: int, count_out: int, micros: int
) -> None:
    tally = tallies.setdefault(name, _Tally(kind))
    tally.there.append(there)
    tally.count_in += count_in
    tally.count_out += count_out
    tally.micros += micros


def _holds(candidates: Candidates, targets: NDArray[np.int32]) -> Bools:
    """(B,) whether each list holds its target."""
    return ranks_in_lists(candidates, targets, by_order=True) < MISSED


def _stage(
    name: str, tally: _Tally, there: Bools, before: Bools | None, events: EvaluationSet, whole_catalogue: int
) -> FunnelStage:
    n = len(there)
    resampled = bootstrap([there.astype(np.float64)], events.user, resamples=500)
    return FunnelStage(
        stage=name,
        kind=tally.kind,
        count_in=tally.count_in / n if before is not None else float(whole_catalogue),
        count_out=tally.count_out / n,
        recall=float(there.mean()),
        interval=resampled.interval(0),
        lost=None if before is None else float((before & ~there).mean()),
        micros=tally.micros / n,
    )


def _pre_ranking(cascade: Cascade) -> str:
    """Whether the pre-ranker runs, and what was measured that speaks for it or against it."""
    if Stage.PRE_RANK not in cascade.stages:
        return ""
    runs = "The pre-ranker orders the merged list" if cascade.config.pre_rank else "The pre-ranker is left out"
    if cascade.config.pre_rank_gain is None:
        return f"{runs}; whether it helps was not measured, for want of validation events or of several channels."
    gain, low, high = cascade.config.pre_rank_gain
    interval = f"95 %: {low:+.4f} to {high:+.4f}"
    return f"{runs}: on validation it changes the NDCG@{FINAL} of the final list by {gain:+.4f} ({interval})."


def _with_ablations(funnel: Funnel, cascade: Cascade, events: EvaluationSet, attributes: pl.DataFrame | None) -> Funnel:
    if len(cascade.channels) < 2:
        return funnel
    return replace(
        funnel,
        whole=_ablation(cascade, "", events, attributes),
        ablations=[_ablation(cascade, channel, events, attributes) for channel in cascade.channels],
        ablation_events=len(events),
    )


def _ablation(cascade: Cascade, without: str, events: EvaluationSet, attributes: pl.DataFrame | None) -> Ablation:
    left = [channel for channel in cascade.channels if channel != without]
    merged, final = 0, 0
    for start, users in batches(events, attributes):
        targets = events.target[start : start + len(users)]
        merged_list, final_list = _merged_and_final(cascade, users, left, events)
        merged += int(_holds(merged_list, targets).sum())
        final += int(_holds(final_list, targets).sum())
    return Ablation(without, merged / len(events), final / len(events))


def _merged_and_final(
    cascade: Cascade, users: Users, channels: Sequence[str], events: EvaluationSet
) -> tuple[Candidates, Candidates]:
    ranked = cascade.run(users, FINAL, channels=channels, allowed=events.eligible)
    merged = next(stage.candidates for stage in ranked.stages if stage.name == "merge")
    assert merged is not None
    return merged, ranked.candidates

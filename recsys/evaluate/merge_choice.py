"""The rule of the merge, learned on validation: fitted on some users, judged on others, not behind the best channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from recsys.cascade.merge import RankCurves, RankFusion
from recsys.data.interactions import EvaluationSet
from recsys.evaluate.metrics import DEPTH, Ranks, ndcg, recall
from recsys.evaluate.rank_curves import PLACES, RankedEvents, fit_curves
from recsys.evaluate.ranking import ranks_in_lists
from recsys.evaluate.sampling import draw_users
from recsys.retrieval.channel import Channel
from recsys.types import Candidates

VALIDATION_EVENTS: Final = 4_000
"""Validation events it is learned on, at most."""
LENGTHS: Final = (10, 50, 100, DEPTH)
"""Lengths of list that the merge is judged at."""
LEADS: Final = (0, *LENGTHS)
"""How many rows of the best channel may go first."""


@dataclass(frozen=True, slots=True)
class MergeChoice:
    """What was chosen.

    Attributes:
        curves: the rule; None where all events are of one user, so that there is nobody to judge it on.
        metrics: of the merged list and, after a dot, of each channel's own, on validation; each user's merged list by
            a rule that was fitted on others.
    """

    curves: RankCurves | None
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Half:
    """Events of half of the users, and each channel's lists for them."""

    events: EvaluationSet
    lists: Mapping[str, Candidates]

    def ranked(self) -> RankedEvents:
        """The events as choices to fit curves to."""
        return RankedEvents.of(list(self.lists.values()), self.events.target)

    def ranks(self, lists: Candidates) -> Ranks:
        """Places of the targets in some lists for these events."""
        return ranks_in_lists(lists, self.events.target, by_order=True)


def choose_merge(
    channels: Mapping[str, Channel], events: EvaluationSet, attributes: pl.DataFrame | None = None
) -> MergeChoice:
    """Curves of log-odds by rank, and how many rows of the best channel go first.

    The curves are fitted on one half of the users and judged on the other, and the other way round. Where the merged
    list is then behind the better channel in a measure of `_measured`, the channel with the best NDCG@500 leads with
    as many rows as it takes: at last with its whole list, which the others only fill up. The curves that are kept are
    fitted on everybody.

    Args:
        channels: by name.
        events: validation events; of more than `VALIDATION_EVENTS` those of users drawn at random.
        attributes: user attributes for the channels.
    """
    halves = [_half(half, channels, attributes) for half in _halves(draw_users(events, VALIDATION_EVENTS))]
    alone = {name: _measured([half.ranks(half.lists[name]) for half in halves]) for name in channels}
    metrics = {f"{name}.{measure}": value for name, of in alone.items() for measure, value in of.items()}
    if len(halves) < 2:
        return MergeChoice(None, metrics)
    leader = max(channels, key=lambda name: alone[name][f"ndcg@{DEPTH}"])
    ranked = [half.ranked() for half in halves]
    crossed = [_curves(list(channels), ranked[other]) for other in (1, 0)]
    tried = {lead: _crossed(halves, [_led(curves, leader, lead) for curves in crossed]) for lead in LEADS}
    lead = _least_lead(tried, alone)
    curves = _curves(list(channels), ranked[0] + ranked[1])
    return MergeChoice(_led(curves, leader, lead), tried[lead] | metrics)


def _halves(events: EvaluationSet) -> list[EvaluationSet]:
    """The events of one half of the users, drawn at random, and those of the other; one part if there is one user."""
    users = np.unique(events.user)
    first = np.random.default_rng(0).permutation(users)[: len(users) // 2]
    sides = np.isin(events.user, first)
    return [
        replace(events, user=events.user[side], history_end=events.history_end[side], target=events.target[side])
        for side in (sides, ~sides)
        if side.any()
    ]


def _half(events: EvaluationSet, channels: Mapping[str, Channel], attributes: pl.DataFrame | None) -> _Half:
    users = events.users(0, len(events), attributes)
    return _Half(events, {name: channel.recall(users, DEPTH, events.eligible) for name, channel in channels.items()})


def _curves(channels: Sequence[str], events: RankedEvents) -> RankCurves:
    values = np.round(fit_curves(events), 4).tolist()
    return RankCurves(places=PLACES, log_odds=dict(zip(channels, map(tuple, values), strict=True)))


def _led(curves: RankCurves, leader: str, lead: int) -> RankCurves:
    return curves.model_copy(update={"leader": leader, "lead": lead}) if lead else curves


def _crossed(halves: Sequence[_Half], rules: Sequence[RankCurves]) -> dict[str, float]:
    """The measures of the merged lists, each half by its own rule."""
    lists = [RankFusion(rule).merge(half.lists, DEPTH) for half, rule in zip(halves, rules, strict=True)]
    return _measured([half.ranks(merged) for half, merged in zip(halves, lists, strict=True)])


def _measured(ranks: Sequence[Ranks]) -> dict[str, float]:
    together = np.concatenate(ranks)
    shown = LENGTHS[0]
    return {
        f"ndcg@{shown}": float(ndcg(together, shown).mean()),
        f"ndcg@{DEPTH}": float(ndcg(together, DEPTH).mean()),
        **{f"recall@{length}": float(recall(together, length).mean()) for length in LENGTHS},
    }


def _least_lead(merged: Mapping[int, Mapping[str, float]], alone: Mapping[str, Mapping[str, float]]) -> int:
    """The shortest lead with which no measure is behind the best channel's; failing that, the one least behind."""
    best = {measure: max(of[measure] for of in alone.values()) for measure in merged[LEADS[0]]}
    worst = {lead: min(of[measure] - best[measure] for measure in best) for lead, of in merged.items()}
    return next((lead for lead in LEADS if worst[lead] >= 0), max(LEADS, key=lambda lead: worst[lead]))

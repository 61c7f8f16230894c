"""How much each channel's list counts in the merge: chosen on validation, the strongest channel first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from recsys.cascade.merge import ReciprocalRankFusion
from recsys.data.interactions import EvaluationSet
from recsys.evaluate.metrics import DEPTH, ndcg, recall
from recsys.evaluate.ranking import ranks_in_lists
from recsys.evaluate.sampling import draw_users
from recsys.retrieval.channel import Channel
from recsys.types import Candidates

WEIGHTS: Final = (0.01, 0.03, 0.1, 0.3, 1.0)
"""What a channel's weight is chosen among, beside 1 for the strongest. None is 0: who is in no other channel's reach, a
new user for one, still gets this one's list. At 0.01 a list only fills up what the others leave empty."""
VALIDATION_EVENTS: Final = 1_000
"""Validation events the weights are chosen on, at most."""


@dataclass(frozen=True, slots=True)
class MergeWeights:
    """What was chosen.

    Attributes:
        weights: by channel.
        metrics: of the merged list and, after a dot, of each channel's own, on validation.
    """

    weights: dict[str, float]
    metrics: dict[str, float]


def choose_weights(
    channels: Mapping[str, Channel], events: EvaluationSet, attributes: pl.DataFrame | None = None
) -> MergeWeights:
    """Weights for a merge by reciprocal rank that no weak channel can spoil.

    The channel with the best NDCG@500 alone gets weight 1. Each of the others, best first, joins
    the merge with that one of `WEIGHTS` which makes the NDCG@500 of the merged list best, the least
    of equals. (NDCG over the whole depth sees both ends: what a user is shown and what is there to
    be ranked. With equal weights, popularity has the same say as the best model.)

    Args:
        channels: by name.
        events: validation events; of more than `VALIDATION_EVENTS` those of users drawn at random.
        attributes: user attributes for the channels.
    """
    events = draw_users(events, VALIDATION_EVENTS)
    users = events.users(0, len(events), attributes)
    lists = {name: channel.recall(users, DEPTH, events.eligible) for name, channel in channels.items()}

    def quality(weights: Mapping[str, float]) -> float:
        merged = ReciprocalRankFusion(weights=weights).merge({name: lists[name] for name in weights}, DEPTH)
        return _measured(merged, events)["ndcg@500"]

    alone = {name: _measured(found, events) for name, found in lists.items()}
    order = sorted(lists, key=lambda name: -alone[name]["ndcg@500"])
    weights: dict[str, float] = {}
    for name in order:
        values = [quality({**weights, name: weight}) for weight in WEIGHTS] if weights else [0.0]
        weights[name] = WEIGHTS[int(np.argmax(values))] if weights else 1.0
    merged = ReciprocalRankFusion(weights=weights).merge({name: lists[name] for name in weights}, DEPTH)
    metrics = _measured(merged, events)
    for name in order:
        metrics |= {f"{name}.{measure}": value for measure, value in alone[name].items()}
    return MergeWeights(weights, metrics)


def _measured(lists: Candidates, events: EvaluationSet) -> dict[str, float]:
    ranks = ranks_in_lists(lists, events.target, by_order=True)
    return {
        "ndcg@500": float(ndcg(ranks, DEPTH).mean()),
        "recall@100": float(recall(ranks, 100).mean()),
        "recall@500": float(recall(ranks, DEPTH).mean()),
    }

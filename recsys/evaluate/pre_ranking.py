"""Whether a pre-ranker orders the merged list better than the merge did: decided on validation, event by event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.cascade.cascade import Cascade, CascadeConfig
from recsys.cascade.merge import RankCurves
from recsys.data.interactions import EvaluationSet
from recsys.evaluate.bootstrap import bootstrap
from recsys.evaluate.metrics import ndcg
from recsys.evaluate.ranking import batches, ranks_in_lists
from recsys.evaluate.sampling import draw_users
from recsys.ranking.scorer import Scorer
from recsys.retrieval.channel import Channel

SHOWN: Final = 10
"""Length of the final list."""
VALIDATION_EVENTS: Final = 4_000
"""Validation events it is decided on, at most."""


@dataclass(frozen=True, slots=True)
class PreRanking:
    """What was decided.

    Attributes:
        helps: whether the final list is better with the pre-ranker.
        gain: NDCG@10 of the final list with it, less that without it, over the same events.
        interval: 95 % interval of the gain.
    """

    helps: bool
    gain: float
    interval: tuple[float, float]


def judge_pre_ranking(
    channels: Iterable[Channel],
    scorers: Iterable[Scorer],
    merge: RankCurves | None,
    events: EvaluationSet,
    attributes: pl.DataFrame | None = None,
) -> PreRanking:
    """Runs the cascade with and without its pre-ranker for the same events and compares what is shown.

    A merge of several channels knows more than the one model that pre-ranks: where that model is not the
    best, ordering by it alone throws away what the others found.

    Args:
        channels: of the cascade.
        scorers: of the cascade; one of them pre-ranks.
        merge: the rule of the merge, None where none was learned.
        events: validation events; of more than `VALIDATION_EVENTS` those of users drawn at random.
        attributes: user attributes for the models.
    """
    channels, scorers = tuple(channels), tuple(scorers)
    with_it, without = (
        Cascade(channels, scorers, config=CascadeConfig(merge=merge, pre_rank=pre_rank)) for pre_rank in (True, False)
    )
    events = draw_users(events, VALIDATION_EVENTS)
    gains: list[NDArray[np.float64]] = []
    for start, users in batches(events, attributes):
        targets = events.target[start : start + len(users)]
        one, other = (
            ndcg(ranks_in_lists(found.candidates, targets, by_order=True), SHOWN)
            for cascade in (with_it, without)
            for found in (cascade.run(users, SHOWN, allowed=events.eligible),)
        )
        gains.append(one - other)
    resampled = bootstrap([np.concatenate(gains)], events.user)
    gain = float(resampled.means[0])
    return PreRanking(gain > 0, gain, resampled.interval(0))

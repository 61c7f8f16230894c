"""What a cascade is to be, chosen on validation: the rule of the merge, and whether to pre-rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from recsys.cascade.cascade import CascadeConfig
from recsys.data.interactions import EvaluationSet
from recsys.evaluate.merge_choice import choose_merge
from recsys.evaluate.pre_ranking import judge_pre_ranking
from recsys.ranking.scorer import Scorer, Stage
from recsys.retrieval.channel import Channel


@dataclass(frozen=True, slots=True)
class CascadeChoice:
    """What was chosen, and the figures it was chosen by."""

    config: CascadeConfig = field(default_factory=CascadeConfig)
    metrics: Mapping[str, float] = field(default_factory=dict)


def choose_cascade(
    channels: Mapping[str, Channel],
    scorers: Sequence[Scorer],
    events: EvaluationSet | None,
    attributes: pl.DataFrame | None = None,
) -> CascadeChoice:
    """Learns the rule of the merge, then asks of the merged list whether pre-ranking makes it better.

    With a single channel, or no event to choose by, the defaults stand.

    Args:
        channels: by name.
        scorers: of the cascade; may be none.
        events: validation events, None where there are none.
        attributes: user attributes for the models.
    """
    if not events or len(channels) < 2:
        return CascadeChoice()
    merge = choose_merge(channels, events, attributes)
    config = CascadeConfig(merge=merge.curves)
    if any(scorer.stage is Stage.PRE_RANK for scorer in scorers):
        judged = judge_pre_ranking(channels.values(), scorers, merge.curves, events, attributes)
        gain = (judged.gain, *judged.interval)
        config = config.model_copy(update={"pre_rank": judged.helps, "pre_rank_gain": gain})
    return CascadeChoice(config, merge.metrics)

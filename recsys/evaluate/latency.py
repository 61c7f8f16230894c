"""What one request costs: the cascade asked for one user at a time, as a server does, in this process."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from recsys.cascade.cascade import Cascade
from recsys.data.interactions import EvaluationSet

LENGTH: Final = 100
"""Recommendations asked for."""
_WARM_UP: Final = 10


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds that so many requests took in one stage ("recall:<channel>" for a channel): percentiles."""

    stage: str
    requests: int
    p50: float
    p95: float
    p99: float

    def as_json(self) -> dict[str, float]:
        """The stage's entry in report.json."""
        return {"p50_micros": self.p50, "p95_micros": self.p95, "p99_micros": self.p99}


def latencies(cascade: Cascade, events: EvaluationSet, attributes: pl.DataFrame, users: int) -> list[Latency]:
    """Runs the cascade for `users` test events one by one; the whole comes last.

    Args:
        cascade: of the bundle.
        events: where users and histories are taken from, at equal distances.
        attributes: of the users.
        users: how many are asked, at least 1.
    """
    asked = np.linspace(0, len(events) - 1, min(users, len(events))).astype(np.int64)
    micros: defaultdict[str, list[int]] = defaultdict(list)
    for m in [*asked[:_WARM_UP], *asked]:
        ranked = cascade.run(events.users(m, m + 1, attributes), LENGTH, allowed=events.eligible)
        for answer in ranked.channels:
            micros[f"recall:{answer.name}"].append(answer.micros)
        for stage in ranked.stages:
            micros[stage.name].append(stage.micros)
        micros["whole"].append(sum(stage.micros for stage in ranked.stages))
    warm = min(_WARM_UP, len(asked))
    return [_latency(name, values[warm:]) for name, values in micros.items()]


def _latency(stage: str, micros: list[int]) -> Latency:
    p50, p95, p99 = (float(value) for value in np.percentile(micros, [50, 95, 99]))
    return Latency(stage, len(micros), p50, p95, p99)

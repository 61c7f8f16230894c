"""How a yardstick gets its settings: each one tried is fitted on training, validation NDCG@10 chooses."""

from __future__ import annotations

import time
from dataclasses import dataclass

from recsys.data.interactions import EvaluationSet
from recsys.evaluate.baselines import Baseline, FitData, Settings
from recsys.evaluate.metrics import ndcg
from recsys.evaluate.ranking import rank_yardstick
from recsys.evaluate.yardstick_models import YardstickModel

VALIDATION_EVENTS = 3_000
"""Validation events that settings are chosen on, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A fitted yardstick and how it came by its settings.

    Attributes:
        model: fitted on the training events with the best settings.
        note: the settings, among which they were chosen, and the validation NDCG@10.
        seconds: for fitting all of the grid.
    """

    model: YardstickModel
    note: str
    seconds: float


def tune(baseline: Baseline, data: FitData, validation: EvaluationSet) -> Tuned:
    """Fits a yardstick with the best of its settings.

    Args:
        baseline: what to fit.
        data: the training events.
        validation: events after training and before the test; not looked at when the grid has one point.

    Raises:
        MissingPartError: when the yardstick's package is not installed.
    """
    best, best_model, best_value, seconds = baseline.grid[0], None, -1.0, 0.0
    for settings in baseline.grid:
        started = time.perf_counter()
        model = baseline.fit(data, settings)
        seconds += time.perf_counter() - started
        value = 0.0
        if len(baseline.grid) > 1:
            value = float(ndcg(rank_yardstick(model, validation, data.items).ranks, 10).mean())
        if value > best_value:
            best, best_model, best_value = settings, model, value
    assert best_model is not None
    return Tuned(best_model, _note(baseline, best, best_value), seconds)


def _note(baseline: Baseline, best: Settings, value: float) -> str:
    chosen = ", ".join(f"{name} {setting:g}" for name, setting in best.items())
    if len(baseline.grid) == 1:
        return chosen
    return f"{chosen}: best of {len(baseline.grid)} by validation NDCG@10 ({value:.4f})"

"""The ceiling of a simulated dataset: how well its test events can be predicted by whoever knows the truth."""

from __future__ import annotations

from typing import Final

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.interactions import EvaluationSet
from recsys.data.marketplace.truth import TRUTH, MarketplaceTruth
from recsys.errors import DataError
from recsys.evaluate.ranking import Advance, rank_score_blocks
from recsys.evaluate.results import Contestant
from recsys.types import Floats, Users

CEILING: Final = "ceiling"
MOST_PAIRS: Final = 1_000_000_000
"""Test events × items up to which the ceiling is computed: some minutes of one core."""


def has_truth(dataset: Dataset) -> bool:
    """Whether a dataset was simulated and its truth lies beside it."""
    return (dataset.path / TRUTH).is_dir()


def ceiling(dataset: Dataset, events: EvaluationSet, items: int, advance: Advance = lambda done: None) -> Contestant:
    """Ranks the candidates of each test event by the true odds of being clicked next: p_show · p_click.

    The odds are those of the event's own hour, and know the hidden interests; no model does better on average. The
    candidates are those of the protocol, less the user's own history, as for every model.

    Args:
        dataset: simulated.
        events: the test events.
        items: N, size of the catalogue.
        advance: told the progress.

    Raises:
        DataError: when there are too many events and items, or the truth is altered or not that of these events.
    """
    pairs = len(events) * items
    if pairs > MOST_PAIRS:
        most = max(1, MOST_PAIRS // items)
        raise DataError(f"{len(events):,} events × {items:,} items are too many; --max-events {most} makes it possible")
    truth = MarketplaceTruth.open(dataset.path)
    if truth.laws.items != items:
        raise DataError(f"{dataset.path / TRUTH} is of {truth.laws.items:,} items, the catalogue of {items:,}")
    ids, times = events.user_ids, events.times_ms

    def odds(start: int, users: Users) -> Floats:
        part = slice(start, start + len(users))
        return truth.next_click(ids[part], times[part]).astype(np.float32)

    ranking = rank_score_blocks(odds, events, items, advance)
    return Contestant(CEILING, "ceiling", ranking, False, "true p_show · p_click of every item at that hour")

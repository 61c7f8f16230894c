"""Fewer test events where all would take too long: whole users, drawn at random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recsys.data.interactions import EvaluationSet
from recsys.types import Bools


def draw_users(events: EvaluationSet, most: int, seed: int = 0) -> EvaluationSet:
    """The test events of as many users, drawn at random, as have at most `most` events together.

    At least one user is drawn.

    Args:
        events: the test events.
        most: how many to keep; 0 = all.
        seed: of the draw.
    """
    if not 0 < most < len(events):
        return events
    users, counts = np.unique(events.user, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(users))
    within = np.cumsum(counts[order]) <= most
    within[0] = True
    return of_events(events, np.isin(events.user, users[order[within]]))


def of_events(events: EvaluationSet, keep: Bools) -> EvaluationSet:
    """The test events that `keep` (M,) marks."""
    return replace(events, user=events.user[keep], history_end=events.history_end[keep], target=events.target[keep])

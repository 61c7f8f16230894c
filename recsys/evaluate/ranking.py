"""Where the targets of test events end up: in the lists of channels as served, or under score matrices.

Both ways end in the same `Ranking`: a rank a test event, and how often each item was recommended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.interactions import EvaluationSet
from recsys.evaluate.metrics import DEPTH, LIST_LENGTH, MISSED, Ranks
from recsys.evaluate.yardstick_models import ScoreModel, YardstickModel
from recsys.retrieval.channel import Channel
from recsys.types import Bools, Candidates, Floats, RowMask, Rows, Users

BATCH: Final = 1_000
"""Users a call of a channel."""
SCORE_CELLS: Final = 4_000_000
"""Largest block of a score matrix, users × items: 16 MB of float32."""

Advance: TypeAlias = Callable[[int], None]
"""Told how many more test events are done."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """What one model did on a set of test events.

    Attributes:
        ranks: (M,) rank of each target, MISSED beyond DEPTH.
        recommended: (N,) in how many of the first-LIST_LENGTH lists each row was.
        seconds: wall clock of the model's own work and of ranking together.
        model_seconds: the model's own work alone.
    """

    ranks: Ranks
    recommended: NDArray[np.int64]
    seconds: float
    model_seconds: float


def batches(events: EvaluationSet, attributes: pl.DataFrame | None, size: int = BATCH) -> Iterator[tuple[int, Users]]:
    """Test events as batches of users: (number of the first event, its users)."""
    for start in range(0, len(events.target), size):
        yield start, events.users(start, min(start + size, len(events.target)), attributes)


def rank_lists(
    recall: Callable[[Users, int], Candidates],
    events: EvaluationSet,
    items: int,
    attributes: pl.DataFrame | None = None,
    *,
    by_order: bool = False,
    advance: Advance = lambda done: None,
) -> Ranking:
    """Ranks of the targets in the lists that `recall(users, length)` answers with.

    One more than DEPTH is asked for, so that a tie across the end of the list is seen.

    Args:
        recall: the model; exclusions are its own business.
        events: the test events.
        items: N, size of the catalogue.
        attributes: user attributes for the model.
        by_order: only the order of the list means anything (a merged list): the rank is the place.
        advance: told the progress.
    """
    ranks = np.empty(len(events.target), np.int32)
    recommended = np.zeros(items, np.int64)
    started, asked = time.perf_counter(), 0.0
    for start, users in batches(events, attributes):
        before = time.perf_counter()
        lists = recall(users, min(DEPTH + 1, items))
        asked += time.perf_counter() - before
        targets = events.target[start : start + len(users)]
        ranks[start : start + len(users)] = ranks_in_lists(lists, targets, by_order=by_order)
        recommended += _counts(lists, items)
        advance(len(users))
    ranks[ranks > DEPTH] = MISSED
    return Ranking(ranks, recommended, time.perf_counter() - started, asked)


def rank_channel(
    channel: Channel,
    events: EvaluationSet,
    items: int,
    attributes: pl.DataFrame | None = None,
    advance: Advance = lambda done: None,
) -> Ranking:
    """Ranks of the targets in a channel's lists, asked as a server asks it, for `BATCH` users at once."""
    return rank_lists(
        lambda users, k: channel.recall(users, k, events.eligible), events, items, attributes, advance=advance
    )


def rank_yardstick(
    model: YardstickModel, events: EvaluationSet, items: int, advance: Advance = lambda done: None
) -> Ranking:
    """Ranks of the targets under a fitted yardstick, in the way that suits it."""
    if isinstance(model, Channel):
        return rank_channel(model, events, items, advance=advance)
    return rank_scores(model, events, items, advance)


def ranks_in_lists(lists: Candidates, targets: Rows, *, by_order: bool = False) -> Ranks:
    """(B,) rank of each target in its list, the worst place among equal scores; MISSED when it is not there."""
    owner = np.repeat(np.arange(len(lists)), lists.counts)
    hits = np.flatnonzero(lists.rows == targets[owner])
    ranks = np.full(len(lists), MISSED, np.int32)
    if by_order:
        ranks[owner[hits]] = hits - lists.offsets[owner[hits]] + 1
        return ranks
    score = np.full(len(lists), np.inf, np.float32)
    score[owner[hits]] = lists.scores[hits]
    at_least = np.bincount(owner[lists.scores >= score[owner]], minlength=len(lists))
    ranks[owner[hits]] = at_least[owner[hits]]
    return ranks


def _counts(lists: Candidates, items: int) -> NDArray[np.int64]:
    """(N,) in how many lists each row is among the first LIST_LENGTH."""
    place = np.arange(len(lists.rows)) - np.repeat(lists.offsets[:-1], lists.counts)
    return np.bincount(lists.rows[place < LIST_LENGTH], minlength=items)


def rank_scores(
    model: ScoreModel,
    events: EvaluationSet,
    items: int,
    advance: Advance = lambda done: None,
) -> Ranking:
    """Ranks of the targets under a model that scores every row for a history."""
    return rank_score_blocks(lambda start, users: model.scores(users.history), events, items, advance)


def rank_score_blocks(
    score: Callable[[int, Users], Floats],
    events: EvaluationSet,
    items: int,
    advance: Advance = lambda done: None,
) -> Ranking:
    """Ranks of the targets under scores of every row, `SCORE_CELLS` users × items at a time.

    Args:
        score: (number of the first event of a block, the users of its events) → (B, N) float32.
        events: the test events.
        items: N, size of the catalogue.
        advance: told the progress.
    """
    ranks = np.empty(len(events.target), np.int32)
    recommended = np.zeros(items, np.int64)
    allowed = None if events.eligible is None else events.eligible.allowed
    started, asked = time.perf_counter(), 0.0
    for start, users in batches(events, None, max(1, min(BATCH, SCORE_CELLS // items))):
        before = time.perf_counter()
        scores = score(start, users)
        asked += time.perf_counter() - before
        masked = mask_scores(scores, users, allowed)
        targets = events.target[start : start + len(users)]
        wanted = scores[np.arange(len(users)), targets]
        ranks[start : start + len(users)] = np.maximum((masked >= wanted[:, None]).sum(axis=1), 1)
        recommended += _counts_of_best(masked)
        advance(len(users))
    ranks[ranks > DEPTH] = MISSED
    return Ranking(ranks, recommended, time.perf_counter() - started, asked)


def mask_scores(scores: NDArray[np.float32], users: Users, allowed: Bools | None) -> NDArray[np.float32]:
    """A copy of the (B, N) scores with −inf where a row must not be recommended to that user."""
    masked = np.array(scores, np.float32)
    masked[np.repeat(np.arange(len(users)), users.excluded.lengths), users.excluded.values] = -np.inf
    if allowed is not None:
        masked[:, ~allowed] = -np.inf
    return masked


def _counts_of_best(masked: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,) in how many rows of a masked score matrix each item is among the LIST_LENGTH best."""
    items = masked.shape[1]
    length = min(LIST_LENGTH, items)
    best = np.argpartition(-masked, length - 1, axis=1)[:, :length]
    eligible = np.take_along_axis(masked, best, axis=1) > -np.inf
    return np.bincount(best[eligible], minlength=items)


def eligible_count(events: EvaluationSet, items: int) -> int:
    """How many rows the protocol lets a model recommend."""
    mask: RowMask | None = events.eligible
    return items if mask is None else mask.count

"""A few test events with titles: what the user had, what came next, what each channel would have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import USER_ID
from recsys.data.interactions import EvaluationSet
from recsys.evaluate.metrics import Ranks
from recsys.retrieval.channel import Channel

SHOWN_HISTORY: Final = 8
SHOWN_LIST: Final = 10
_QUOTA: Final = ((1, 10, 3), (11, 100, 2), (101, np.iinfo(np.int32).max, 1))
"""From which rank to which, how many examples: hits, near misses, one far off."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One channel's first titles for an example; `hit` is the place of the target, None when it is not among them."""

    channel: str
    titles: Sequence[str]
    hit: int | None


@dataclass(frozen=True, slots=True)
class Example:
    """One test event.

    Attributes:
        user: key or id of the user.
        length: of the whole history.
        history: titles of its newest items, oldest first.
        target: title of what came next.
        rank: of the target with the model that examples are chosen by; None when it was missed.
        shown: the lists of the channels.
    """

    user: str
    length: int
    history: Sequence[str]
    target: str
    rank: int | None
    shown: Sequence[Shown]


def pick(ranks: Ranks, seed: int = 0) -> NDArray[np.int64]:
    """Numbers of the test events to show: some hits, some near misses, one far off, drawn at random."""
    generator = np.random.default_rng(seed)
    drawn = []
    for low, high, quota in _QUOTA:
        there = np.flatnonzero((ranks >= low) & (ranks <= high))
        drawn.append(generator.choice(there, min(quota, len(there)), replace=False))
    return np.concatenate(drawn)


def examples(
    channels: Mapping[str, Channel],
    events: EvaluationSet,
    ranks: Ranks,
    titles: Sequence[str],
    attributes: pl.DataFrame | None,
    user_keys: pl.DataFrame | None = None,
) -> list[Example]:
    """The test events of `pick`, as a person reads them.

    Args:
        channels: whose lists are shown.
        events: the test events.
        ranks: (M,) ranks under the model that examples are chosen by.
        titles: what to call each of the N items.
        attributes: of the users, for the channels.
        user_keys: (user_id, key) where ids are hashed strings.
    """
    chosen = pick(ranks)
    keys = (
        {} if user_keys is None else dict(user_keys.filter(pl.col(USER_ID).is_in(events.user_ids[chosen])).iter_rows())
    )
    return [_example(channels, events, int(m), int(ranks[m]), titles, attributes, keys) for m in chosen]


def _example(
    channels: Mapping[str, Channel],
    events: EvaluationSet,
    m: int,
    rank: int,
    titles: Sequence[str],
    attributes: pl.DataFrame | None,
    keys: Mapping[int, str],
) -> Example:
    users = events.users(m, m + 1, attributes)
    target = int(events.target[m])
    shown = []
    for name, channel in channels.items():
        rows, _ = channel.recall(users, SHOWN_LIST, events.eligible).of(0)
        places = np.flatnonzero(rows == target)
        shown.append(Shown(name, [titles[row] for row in rows], int(places[0]) if len(places) else None))
    history, user = users.history[0], int(users.ids[0])
    return Example(
        user=keys.get(user, str(user)),
        length=len(history),
        history=[titles[row] for row in history[-SHOWN_HISTORY:]],
        target=titles[target],
        rank=rank if rank <= _QUOTA[1][1] else None,
        shown=shown,
    )

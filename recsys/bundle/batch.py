"""Recommendations for many users at once, by the same cascade that answers a call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from recsys.bundle.bundle import Bundle
from recsys.bundle.user_batches import users_of
from recsys.errors import PreconditionError
from recsys.retrieval.filters import AttributeFilter
from recsys.types import Bools, Candidates, Ids, RowMask, offsets_of

_AT_ONCE: Final = 1_024
"""Users that go through the cascade together."""


@dataclass(frozen=True, slots=True)
class BatchQuery:
    """What is asked for every user: the fields of a Recall or Recommend call.

    Attributes:
        k: items a user.
        ranked: whether the whole cascade runs (Recommend), or channels and merge alone (Recall).
        channels: names of those to ask; empty = all.
        exclude_seen: whether items that the user has seen must not come back.
        filters: what every item must be.
    """

    k: int = 100
    ranked: bool = True
    channels: tuple[str, ...] = ()
    exclude_seen: bool = True
    filters: tuple[AttributeFilter, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The answers of B users.

    Attributes:
        user_ids: (B,) in the order asked for.
        cold: (B,) users answered without any history.
        candidates: of each user, best first, with the scores that a call would give; bit i of a mask is
            the i-th channel asked.
        began: when work on it began, on the clock `time.monotonic`.
    """

    user_ids: Ids
    cold: Bools
    candidates: Candidates
    began: float


def answer(bundle: Bundle, query: BatchQuery, user_ids: Ids, allowed: RowMask | None = None) -> Part:
    """Answers users as a server whose store holds the bundle's users answers each of them.

    Raises:
        RequestError: for k below 1, or a channel that there is not.
        PreconditionError: when a channel or a scorer fails: half an answer is for a call, not for a file.
    """
    began = time.monotonic()
    parts, cold = [], []
    for start in range(0, len(user_ids), _AT_ONCE):
        users = users_of(bundle, user_ids[start : start + _AT_ONCE], exclude_seen=query.exclude_seen)
        cold.append(users.history.lengths == 0)
        if query.ranked:
            ranked = bundle.cascade.run(users, query.k, channels=query.channels, allowed=allowed)
            _refuse_faults(ranked.degraded, users.ids)
            parts.append(replace(ranked.candidates, scores=ranked.scores.score))
        else:
            recalled = bundle.cascade.recall(users, query.k, channels=query.channels, allowed=allowed)
            _refuse_faults(recalled.degraded, users.ids)
            parts.append(recalled.candidates)
    return Part(user_ids, np.concatenate(cold), _joined(parts), began)


def _refuse_faults(degraded: Sequence[str], user_ids: Ids) -> None:
    if degraded:
        raise PreconditionError(
            f"{', '.join(degraded)} failed for users {user_ids[0]} to {user_ids[-1]}: the log says why; "
            "nothing was written, leave it out with --channels or repair the bundle"
        )


def _joined(parts: Sequence[Candidates]) -> Candidates:
    return Candidates(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.channels for part in parts]),
        offsets_of(np.concatenate([part.counts for part in parts])),
    )

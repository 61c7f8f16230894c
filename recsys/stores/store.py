"""The seam of the feature store: raw profiles, histories, seen sets and the event stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from recsys.columns import EventType
from recsys.types import Ids

MAX_SEEN = 10_000
"""Newest seen ids kept a user."""
MAX_HISTORY = 1_000
"""Newest history events kept a user."""
DEDUPE_SECONDS = 7 * 24 * 3600.0
"""How long an event id is remembered: a repetition within a week changes nothing."""
STREAM_LENGTH = 1_000_000
"""Newest events kept for whoever drains the stream: about 80 MB, keys on top."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it arrives; ids are raw, encoding happens at reading time.

    Attributes:
        event_id: what makes it one event, however often it is sent.
        click_id: event_id of the click that a conversion belongs to.
        user_key, item_key: the strings that user_id and item_id are hashes of, where the caller named
            them so; the stream keeps them, since a hash has no way back.
    """

    event_id: int
    user_id: int
    item_id: int
    type: EventType
    timestamp_ms: int
    click_id: int | None = None
    value: float | None = None
    user_key: str | None = None
    item_key: str | None = None


class StreamEntry(NamedTuple):
    """One event of the stream.

    Attributes:
        position: where it stands, as the server says it; positions only grow.
        number: how many events the stream had been given with it, 1 for the first ever: where numbers
            leave some out, the bound has dropped events. 0 where the server does not count (Redis before 7).
        event: the event.
    """

    position: str
    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class StreamClaim:
    """Who may take events away from the stream, and how far that has come.

    Attributes:
        holder: who has the claim now.
        stream: name of this very stream. Positions in another, such as one from before the store was
            wiped, say nothing about this one.
        drained: number of the newest event that was taken away, 0 for none.
    """

    holder: str
    stream: str
    drained: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a batch of events."""

    accepted: int
    duplicates: int


@dataclass(frozen=True, slots=True, eq=False)
class UserState:
    """All that a request needs to know of one user, as of now.

    Attributes:
        attributes: the raw profile; empty when there is none.
        history_ids, history_ms: (H,) clicked or converted items and their times, oldest to newest.
        seen_ids: (S,) every item clicked or converted, at most MAX_SEEN, any order.
    """

    attributes: Mapping[str, Any] = field(default_factory=dict)
    history_ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    history_ms: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    seen_ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))


class Store(Protocol):
    """Raw user state and the event stream. Every method may raise StoreError."""

    async def read(self, user_id: int) -> UserState:
        """State of a user in one round trip; the empty state for one never heard of."""
        ...

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Records events, each by one atomic step (dedupe by event_id, history, seen, stream).

        Impressions go to the stream alone. A late event takes its place in the history by time.
        """
        ...

    async def load(
        self, users: Iterable[tuple[int, UserState]], *, overwrite: bool = False, source: str | None = None
    ) -> int:
        """Bulk-loads states where the store has nothing newer; returns how many users were written.

        A user whose newest stored event is later keeps it all (a missing profile is filled in); one whose
        newest event is of the same time keeps history and seen ids and takes the profile. `source` names
        where the states come from: a store that outlives its process skips a second load of the same.
        """
        ...

    def stream(self) -> AsyncGenerator[StreamEntry, None]:
        """Events of the stream, oldest first; ends at its end."""
        ...

    async def trim(self, position: str, number: int) -> None:
        """Forgets the stream up to and including an event, once that is safe elsewhere."""
        ...

    async def claim_stream(self, holder: str, seconds: float) -> StreamClaim:
        """Claims the stream for so long, or claims it again; 0 seconds give the claim up.

        The answer names another holder while that one's claim lasts.
        """
        ...

    async def ping(self) -> None:
        """Answers when the store does."""
        ...

    async def close(self) -> None:
        """Ends the connection; the store itself may go on."""
        ...

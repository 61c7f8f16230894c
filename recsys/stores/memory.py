"""The feature store in this process's memory: for tests, and for a service that need not remember."""

from __future__ import annotations

import secrets
import time
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np

from recsys.columns import POSITIVE_EVENTS
from recsys.stores.packing import pack_state, parse_position, unpack_state
from recsys.stores.store import (
    DEDUPE_SECONDS,
    MAX_HISTORY,
    MAX_SEEN,
    STREAM_LENGTH,
    Event,
    Recorded,
    StreamClaim,
    StreamEntry,
    UserState,
)


@dataclass(slots=True)
class _User:
    """What is kept of one user; `seen` holds ids in the order in which each was last seen."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    history_ids: list[int] = field(default_factory=list)
    history_ms: list[int] = field(default_factory=list)
    seen: dict[int, None] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        place = bisect_right(self.history_ms, event.timestamp_ms)
        self.history_ms.insert(place, event.timestamp_ms)
        self.history_ids.insert(place, event.item_id)
        del self.history_ms[:-MAX_HISTORY], self.history_ids[:-MAX_HISTORY]
        self.seen.pop(event.item_id, None)
        self.seen[event.item_id] = None
        if len(self.seen) > MAX_SEEN:
            del self.seen[next(iter(self.seen))]

    def load(self, state: UserState) -> bool:
        """Takes what is not older than what is here; whether that was anything."""
        kept = self.history_ms[-1] if self.history_ms else -inf
        given = int(state.history_ms[-1]) if len(state.history_ms) else -inf
        takes_profile = bool(state.attributes) and state.attributes != self.attributes
        takes_profile &= kept <= given or not self.attributes
        if takes_profile:
            self.attributes = state.attributes
        if kept < given:
            self.take_events(state)
            return True
        if kept == given == -inf and not self.seen and len(state.seen_ids):
            self.take_events(state)
            return True
        return takes_profile

    def take_events(self, state: UserState) -> None:
        """Takes history and seen ids of a state."""
        self.history_ids, self.history_ms = state.history_ids.tolist(), state.history_ms.tolist()
        self.seen = dict.fromkeys(state.seen_ids.tolist())


class MemoryStore:
    """A `Store` that lives and dies with the process; the same rules as `RedisStore`.

    Args:
        dedupe_seconds: how long an event id is remembered.
        stream_length: newest events kept in the stream.
        clock: seconds, for `dedupe_seconds` and claims.
    """

    def __init__(
        self,
        *,
        dedupe_seconds: float = DEDUPE_SECONDS,
        stream_length: int = STREAM_LENGTH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users: dict[int, _User] = {}
        self._forget_at: dict[int, float] = {}
        self._stream: deque[tuple[int, Event]] = deque(maxlen=stream_length)
        self._added = 0
        self._drained = 0
        self._stream_name = secrets.token_hex(4)
        self._claim, self._claimed_until = "", 0.0
        self._dedupe_seconds, self._clock = dedupe_seconds, clock

    async def read(self, user_id: int) -> UserState:
        """State of a user; the empty state for one never heard of."""
        user = self._users.get(user_id)
        if user is None:
            return UserState()
        return UserState(
            dict(user.attributes),
            np.array(user.history_ids, np.int64),
            np.array(user.history_ms, np.int64),
            np.fromiter(user.seen, np.int64, len(user.seen)),
        )

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Records events; impressions go to the stream alone."""
        accepted = sum(self._record(event) for event in events)
        return Recorded(accepted, len(events) - accepted)

    def _record(self, event: Event) -> bool:
        now = self._clock()
        # Marks lie in the order of their ends, since all live equally long.
        while self._forget_at and (oldest := next(iter(self._forget_at.items())))[1] <= now:
            del self._forget_at[oldest[0]]
        if event.event_id in self._forget_at:
            return False
        self._forget_at[event.event_id] = now + self._dedupe_seconds
        self._added += 1
        self._stream.append((self._added, event))
        if event.type in POSITIVE_EVENTS:
            self._users.setdefault(event.user_id, _User()).add(event)
        return True

    async def load(
        self, users: Iterable[tuple[int, UserState]], *, overwrite: bool = False, source: str | None = None
    ) -> int:
        """Bulk-loads states where the store has nothing newer; returns how many users were written."""
        written = 0
        for user_id, given in users:
            state = unpack_state(pack_state(given))
            if overwrite:
                self._users[user_id] = user = _User(state.attributes)
                user.take_events(state)
                written += 1
            else:
                written += self._users.setdefault(user_id, _User()).load(state)
        return written

    async def stream(self) -> AsyncGenerator[StreamEntry, None]:
        """Events of the stream, oldest first; ends at its end."""
        for number, event in list(self._stream):
            yield StreamEntry(f"{number}-0", number, event)

    async def trim(self, position: str, number: int) -> None:
        """Forgets the stream up to and including an event, and remembers its number.

        Raises:
            DataError: for a position that is none.
        """
        through = parse_position(position)
        while self._stream and (self._stream[0][0], 0) <= through:
            self._stream.popleft()
        self._drained = number

    async def claim_stream(self, holder: str, seconds: float) -> StreamClaim:
        """Claims the stream for so long, or claims it again; 0 seconds give the claim up."""
        if holder == self._claim or self._claimed_until <= self._clock():
            self._claim, self._claimed_until = holder, self._clock() + seconds
        return StreamClaim(self._claim, self._stream_name, self._drained)

    async def ping(self) -> None:
        """Answers at once."""

    async def close(self) -> None:
        """Does nothing: the store ends with the process."""

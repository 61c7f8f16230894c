"""The feature store as a request sees it: the user's state, or at once none while the store is away."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from recsys.errors import StoreError
from recsys.stores.store import Event, Recorded, Store, UserState
from services.rpc.measurements import STORE_ERRORS, Measurements

log = structlog.get_logger(__name__)


class GuardedStore:
    """A store whose faults are counted and logged once, and do not fail a read.

    Timeouts, refusing at once while the server is away and finding it again are the store's own.

    Args:
        store: the store itself.
        measurements: where errors are counted.

    Attributes:
        available: whether the store answered when last asked.
    """

    def __init__(self, store: Store, measurements: Measurements) -> None:
        self._store = store
        self._measurements = measurements
        self.available = True

    async def read(self, user_id: int) -> UserState | None:
        """State of a user; None while the store is away."""
        try:
            state = await self._store.read(user_id)
        except StoreError as error:
            self._is_away("read", error)
            return None
        self._is_there()
        return state

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Records events.

        Raises:
            StoreError: while the store is away; nothing may be lost silently.
        """
        try:
            recorded = await self._store.record(events)
        except StoreError as error:
            self._is_away("record", error)
            raise StoreError(f"{error}; send the events again later, each is recorded once") from None
        self._is_there()
        return recorded

    async def ping(self) -> bool:
        """Asks the store whether it is there."""
        try:
            await self._store.ping()
        except StoreError as error:
            self._is_away("ping", error)
            return False
        self._is_there()
        return True

    async def close(self) -> None:
        """Ends the connection."""
        await self._store.close()

    def _is_away(self, operation: str, error: StoreError) -> None:
        self._measurements.count(STORE_ERRORS, operation)
        if self.available:
            self.available = False
            log.warning("store_away", operation=operation, reason=str(error))

    def _is_there(self) -> None:
        if not self.available:
            self.available = True
            log.info("store_back")

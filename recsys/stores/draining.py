"""Takes events away from the stream into Parquet parts: written and on disk first, only then forgotten."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

from recsys.errors import PreconditionError, StoreError
from recsys.stores.event_parts import EventParts
from recsys.stores.store import Store, StreamEntry

BATCH: Final = 100_000
"""Events a part, at most."""
CLAIM_SECONDS: Final = 30.0
"""A drain that was killed keeps drains into other folders from the stream for so long."""

Report = Callable[[str], None]
"""Told in a sentence what a person should know."""


@dataclass(slots=True)
class Drained:
    """What a drain has done so far.

    Attributes:
        events: written.
        parts: files written.
        dropped: events that the stream's bound had dropped before they were read; they are lost.
    """

    events: int = 0
    parts: int = 0
    dropped: int = 0


class Drain:
    """Drains one stream into one folder, as the only one that does.

    Killed anywhere, it loses nothing and writes nothing twice: a part is named by the last event in
    it, and what the folder has is trimmed, not read again, when the next drain begins.

    Args:
        store: whose stream.
        parts: the folder, already open.
        batch: events a part, at most.
        report: told what a person should know.
        stop: set to end after the part under way.

    Attributes:
        done: what was done so far.
    """

    def __init__(
        self,
        store: Store,
        parts: EventParts,
        *,
        batch: int = BATCH,
        report: Report = lambda _: None,
        stop: asyncio.Event | None = None,
    ) -> None:
        self.done = Drained()
        self._store, self._parts, self._batch, self._report = store, parts, batch, report
        self._stop = stop or asyncio.Event()
        # The folder's lock keeps a second drain of the folder away, so whoever comes back with this name comes
        # after one that has ended.
        self._holder = f"{socket.gethostname()}:{parts.folder}"
        self._last = 0

    async def run(self) -> Drained:
        """Drains what is there.

        Raises:
            PreconditionError: another drain has the stream; names its folder.
            StoreError: the store is away; what was drained until then is safe, and the next drain goes on.
            DataError: a part cannot be written.
        """
        try:
            await self._drain()
        finally:
            await self._give_up_claim()
        return self.done

    async def follow(self, seconds: float) -> Drained:
        """Drains what is there and what comes, a part every so many seconds, until told to stop.

        While the store is away, it waits. Raises as `run`, but for StoreError.
        """
        away = False
        try:
            while not self._stop.is_set():
                try:
                    await self._drain()
                    away = False
                except StoreError as error:
                    if not away:
                        self._report(f"{error}; waiting for it to come back")
                    away = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._stop.wait()
        finally:
            await self._give_up_claim()
        return self.done

    async def _drain(self) -> None:
        """Trims what a drain that was killed had written already, then takes all there is."""
        stream = await self._claim()
        end = self._parts.last(stream)
        if end is not None:
            self._last = max(end.number, self._last)
            await self._store.trim(end.position, self._last)
        entries: list[StreamEntry] = []
        async with aclosing(self._store.stream()) as coming:
            async for entry in coming:
                entries.append(entry)
                if len(entries) == self._batch:
                    await self._take(stream, entries)
                    entries = []
                    if self._stop.is_set():
                        return
        if entries:
            await self._take(stream, entries)

    async def _take(self, stream: str, entries: Sequence[StreamEntry]) -> None:
        """Writes a part, then trims the stream."""
        await self._claim()
        await asyncio.to_thread(self._parts.write, stream, entries)
        await self._store.trim(entries[-1].position, entries[-1].number)
        self.done.events += len(entries)
        self.done.parts += 1
        self._notice_gap(entries)

    async def _claim(self) -> str:
        claim = await self._store.claim_stream(self._holder, CLAIM_SECONDS)
        if claim.holder != self._holder:
            host, _, folder = claim.holder.partition(":")
            raise PreconditionError(
                f"the event stream is being drained into {folder} on {host}: events are taken away by one drain "
                f"at a time; end that one, or wait {CLAIM_SECONDS:g} s if it was killed"
            )
        self._last = claim.drained
        return claim.stream

    async def _give_up_claim(self) -> None:
        with suppress(StoreError):  # it ends by itself
            await self._store.claim_stream(self._holder, 0)

    def _notice_gap(self, entries: Sequence[StreamEntry]) -> None:
        """Counts what is missing between the last event drained before and the last of these."""
        last = entries[-1].number
        missing = last - self._last - len(entries)
        self._last = last
        if last and missing > 0:
            self.done.dropped += missing
            self._report(
                f"{missing:,} events are lost: the stream's bound had dropped them before this drain; drain more often"
            )

"""Many concurrent reads, few round trips: what is asked while one is under way goes into the next."""

from __future__ import annotations

import asyncio
from typing import Any

from recsys.errors import StoreError
from recsys.stores.link import Link, pack, refuse_errors

MAX_BATCH = 256
"""Reads that share one round trip at most, so that no answer waits for an endless one."""


class CoalescingReader:
    """Reads groups of keys over one link, one MGET at a time.

    All reads asked for in one turn of the event loop, or while an MGET is under way, go out together:
    under load the price of a round trip is shared, alone a read leaves at once.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: list[tuple[tuple[bytes, ...], asyncio.Future[list[bytes | None]]]] = []
        self._running: asyncio.Task[None] | None = None

    async def read(self, keys: tuple[bytes, ...]) -> list[bytes | None]:
        """Values of the keys, None for one that is not there.

        Raises:
            StoreError: when the server is away, was a moment ago, or refuses.
        """
        self._link.refuse_if_away()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._waiting.append((keys, answer))
        if self._running is None:
            self._running = loop.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                try:
                    await self._read_batch(batch)
                except Exception as error:  # whatever it was, those who wait must not wait for ever
                    for _, answer in batch:
                        if not answer.done():
                            answer.set_exception(StoreError(str(error)))
        finally:
            self._running = None

    async def _read_batch(self, batch: list[tuple[tuple[bytes, ...], asyncio.Future[list[Any]]]]) -> None:
        wanted = [key for keys, _ in batch for key in keys]
        (values,) = answers = await self._link.exchange(pack(b"MGET", *wanted), 1)
        refuse_errors(answers, self._link.name)
        start = 0
        for keys, answer in batch:
            stop = start + len(keys)
            if not answer.done():
                answer.set_result(values[start:stop])
            start = stop

"""The worker processes: started, listened to, and started again when they crash."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from services.rpc.control import Ask, Control, Failed, Look, Refused, Serving, Snapshot, Start
from services.rpc.measurements import Measurements
from services.rpc.settings import ServeSettings, WorkerSettings

log = structlog.get_logger(__name__)

FIRST_BACKOFF_SECONDS: Final = 0.1
LAST_BACKOFF_SECONDS: Final = 10.0
STABLE_SECONDS: Final = 60.0
"""A worker that lived this long crashed by chance: it is started again at once."""
SNAPSHOT_SECONDS: Final = 2.0
_KILL_AFTER_SECONDS: Final = 5.0
"""How much longer than the drain a worker may take to end."""


class WorkerProcess:
    """One place among N that always has a process in it.

    Args:
        place: 0…N-1, for the logs.
        settings: what the server was told.
        last_good: version that was last served by some worker, asked for at every start.

    Attributes:
        version: served now; empty while it starts.
        refused: why it does not serve what CURRENT names; empty when it does.
        failure: why its process could not start, None when it did.
    """

    def __init__(self, place: int, settings: ServeSettings, last_good: Callable[[], str | None]) -> None:
        self._place, self._settings, self._last_good = place, settings, last_good
        self._process: asyncio.subprocess.Process | None = None
        self._control: Control | None = None
        self._changed = asyncio.Condition()
        self._snapshots = 0
        self._departed = Measurements()
        self._now = Measurements()
        self._started = time.monotonic()
        self._stopping = False
        self.version = ""
        self.refused = ""
        self.failure: Failed | None = None
        self.restarts = 0
        self.in_flight = 0
        self.store_available = False

    @property
    def pid(self) -> int:
        """Process id, 0 between two processes."""
        return self._process.pid if self._process is not None else 0

    @property
    def serving(self) -> bool:
        """Whether it takes calls."""
        return bool(self.version)

    @property
    def uptime(self) -> float:
        """Seconds since its present process started."""
        return time.monotonic() - self._started

    @property
    def measurements(self) -> Measurements:
        """Counts of all processes that were in this place."""
        return Measurements.merged([self._departed, self._now])

    async def keep(self) -> None:
        """Has a process in this place until `stop`; crashes are answered by a new one, ever more slowly."""
        backoff = FIRST_BACKOFF_SECONDS
        while not self._stopping:
            code = await self._live()
            if self._stopping:
                return
            backoff = FIRST_BACKOFF_SECONDS if self.uptime > STABLE_SECONDS else min(2 * backoff, LAST_BACKOFF_SECONDS)
            log.error("worker_ended", place=self._place, code=code, restart_in=backoff)
            self.restarts += 1
            await self._tell()
            await asyncio.sleep(backoff)

    async def _live(self) -> int:
        """Starts a process and listens to it until it ends; returns its exit code."""
        mine, its = socket.socketpair()
        with its:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.rpc.worker",
                str(its.fileno()),
                str(os.getpid()),
                pass_fds=(its.fileno(),),
                env=_environment(),
            )
        self._started = time.monotonic()
        self._control = await Control.over(mine)
        self._control.send(Start(settings=WorkerSettings(serve=self._settings, last_good=self._last_good())))
        if self._stopping:
            self._process.terminate()
        while (message := await self._control.receive()) is not None:
            await self._hear(message)
        code = await self._process.wait()
        await self._gone()
        return code

    async def _hear(self, message: object) -> None:
        if isinstance(message, Serving):
            self.version, self.refused, self.failure = message.version, "", None
        elif isinstance(message, Refused):
            self.refused = message.reason
            self.version = self.version or self._last_good() or ""
        elif isinstance(message, Failed):
            self.failure = message
        elif isinstance(message, Snapshot):
            self._now = Measurements.from_json(message.measurements)
            self.in_flight, self.store_available = message.in_flight, message.store_available
            self._snapshots += 1
        await self._tell()

    async def _tell(self) -> None:
        """Wakes those who wait for a change."""
        async with self._changed:
            self._changed.notify_all()

    async def _gone(self) -> None:
        """Keeps the counts of the process that ended, so that no counter falls."""
        self._departed = self.measurements
        self._now = Measurements()
        if self._control is not None:
            self._control.close()
        self._control = self._process = None
        self.version, self.in_flight = "", 0
        await self._tell()

    async def wait_for(self, condition: Callable[[WorkerProcess], bool]) -> None:
        """Returns once the condition holds; it is looked at whenever the worker says something."""
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self))

    def look(self) -> None:
        """Has it look at CURRENT now."""
        if self._control is not None:
            self._control.send(Look())

    async def refresh(self) -> None:
        """Asks for fresh numbers; after a while the last ones have to do."""
        if self._control is None:
            return
        wanted = self._snapshots + 1
        self._control.send(Ask())
        with suppress(TimeoutError):
            async with asyncio.timeout(SNAPSHOT_SECONDS):
                await self.wait_for(lambda worker: worker._snapshots >= wanted or worker._control is None)

    async def stop(self) -> None:
        """Lets the process finish its calls and end; one that does not is killed."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        limit = self._settings.drain_notice_seconds + self._settings.drain_seconds + _KILL_AFTER_SECONDS
        try:
            async with asyncio.timeout(limit):
                await process.wait()
        except TimeoutError:
            log.error("worker_killed", place=self._place, after_seconds=limit)
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """One thread a library: N workers already use N cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}

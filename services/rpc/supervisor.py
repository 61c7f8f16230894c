"""The process that `recsys serve` is: takes the ports, owns store, workers, Admin and metrics, ends them all."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

import grpc.aio
import structlog

from recsys.bundle.manifest import USERS_FOLDER
from recsys.bundle.publish import bundle_path, current, publish, rollback
from recsys.bundle.users import BundleUsers
from recsys.errors import BundleError, PreconditionError, RecsysError, StoreError
from recsys.stores.embedded import EmbeddedValkey
from recsys.stores.opening import open_store
from recsys.stores.store import Store
from services.rpc import credentials, ports
from services.rpc.admin import admin_server
from services.rpc.exposition import Gauges, serve_metrics
from services.rpc.measurements import Measurements
from services.rpc.processes import WorkerProcess
from services.rpc.settings import Address, ServeSettings, embedded_store_directory

log = structlog.get_logger(__name__)

ATTEMPTS: Final = 3
"""How often a worker is started before the whole server gives up coming up."""
WATCH_SECONDS: Final = 0.5
"""How often store and CURRENT are looked at."""
STORE_TIMEOUT_SECONDS: Final = 1.0
"""The supervisor can wait longer for the store than a request can."""
_SCRAPE_SECONDS: Final = 5.0


class Supervisor:
    """One server from start to end.

    Attributes:
        settings: as given, with the ports that were really taken and the store's URL.
        workers: the N places.
        store_available: whether the store answered when last asked.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.started = time.monotonic()
        self.store_available = False
        self.workers: list[WorkerProcess] = []
        self._served: str | None = None
        self._loaded: str | None = None
        self._embedded: EmbeddedValkey | None = None
        self._store: Store | None = None
        self._holder: socket.socket | None = None
        self._admin: grpc.aio.Server | None = None
        self._metrics: WSGIServer | None = None
        self._activation = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def store_kind(self) -> str:
        """Who runs the store: "embedded" or "redis"."""
        return "redis" if self._embedded is None else "embedded"

    async def run(self, ready: Callable[[Supervisor], None]) -> None:
        """Serves until SIGTERM or SIGINT; `ready` is called once every worker takes calls.

        Raises:
            RecsysError: something that is asked for cannot be had; nothing is left running.
        """
        stop = asyncio.Event()
        for stopping in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(stopping, stop.set)
        try:
            starting = asyncio.create_task(self._start())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                ready(self)
                await stopped
            await _cancel([starting, stopped])
            log.info("stopping")
        finally:
            await self._end()

    async def _start(self) -> None:
        credentials.check(self.settings.credentials)
        current(self.settings.bundles)
        self._take_ports()
        self._start_store()
        self._store = open_store(self.settings.redis_url, self.settings.namespace, read_timeout=STORE_TIMEOUT_SECONDS)
        await self._look_after_store()
        await self._load_users()
        await self._start_workers()
        if self.settings.admin is not None:
            self._admin = admin_server(self)
            credentials.add_port(self._admin, self.settings.admin, self.settings.credentials)
            await self._admin.start()
        if self.settings.metrics is not None:
            self._metrics = serve_metrics(self.settings.metrics, self._scrape(asyncio.get_running_loop()))
        self._tasks.append(asyncio.create_task(self._watch()))

    def _take_ports(self) -> None:
        listen, self._holder = ports.reserve(self.settings.listen, "--listen")
        taken: dict[str, Address] = {"listen": listen}
        for name, flag in (("admin", "--admin-listen"), ("metrics", "--metrics-listen")):
            address = getattr(self.settings, name)
            if address is not None:
                taken[name] = ports.check_free(address, flag)
        self.settings = self.settings.model_copy(update=taken)

    def _start_store(self) -> None:
        """An embedded store when there is no URL."""
        if self.settings.redis_url is None:
            directory = embedded_store_directory(self.settings.bundles, self.settings.store_dir)
            self._embedded = EmbeddedValkey(directory, durable=self.settings.durable_events)
            self.settings = self.settings.model_copy(update={"redis_url": self._embedded.url})

    async def _start_workers(self) -> None:
        """Starts all workers.

        Raises:
            RecsysError: the first that cannot start says why.
        """
        self.workers = [
            WorkerProcess(place, self.settings, lambda: self._served) for place in range(self.settings.workers)
        ]
        self._tasks += [asyncio.create_task(worker.keep()) for worker in self.workers]
        await self._all(lambda worker: worker.wait_for(_has_begun_or_given_up))
        for worker in self.workers:
            if worker.failure is not None:
                kind = PreconditionError if worker.failure.exit_code == PreconditionError.exit_code else RecsysError
                raise kind(worker.failure.reason)
            if not worker.serving:
                raise RecsysError(f"a worker crashed {ATTEMPTS} times before it served; its last words are in the log")
        self._served = self.workers[0].version

    async def _all(self, action: Callable[[WorkerProcess], Awaitable[Any]]) -> None:
        await asyncio.gather(*(action(worker) for worker in self.workers))

    async def activate(self, version: str) -> tuple[str, str]:
        """Publishes a version and returns when every worker serves it.

        Returns:
            The version served now, and the one before.

        Raises:
            BundleError: there is no such version, or it is not whole, or a worker refuses it; the old
                one is then current again and goes on serving.
        """
        bundles = self.settings.bundles
        return await self._change(lambda previous: publish(bundles, version), lambda previous: rollback(bundles))

    async def go_back(self) -> tuple[str, str]:
        """Activates the version served before the current one; as `activate`."""
        bundles = self.settings.bundles
        return await self._change(lambda previous: rollback(bundles), lambda previous: publish(bundles, previous))

    async def _change(self, do: Callable[[str], Path], undo: Callable[[str], Path]) -> tuple[str, str]:
        """Names another version and waits for the workers; both functions are given the version before."""
        async with self._activation:
            previous = current(self.settings.bundles).name
            version = (await asyncio.to_thread(do, previous)).name
            refusal = await self._refusal(version)
            if refusal:
                if version != previous:
                    await asyncio.to_thread(undo, previous)
                for worker in self.workers:
                    worker.look()
                raise BundleError(f"bundle {version} was not activated, {previous} goes on: {refusal}")
            self._served = version
        await self._load_users()
        return version, previous

    async def _refusal(self, version: str) -> str:
        """Why not every worker serves a version, "" once all do."""
        try:
            async with asyncio.timeout(self.settings.activation_seconds):
                await self._all(lambda worker: _served_by(worker, version))
        except TimeoutError:
            return f"not every worker served it within {self.settings.activation_seconds:g} s"
        return next((worker.refused for worker in self.workers if worker.version != version), "")

    async def _watch(self) -> None:
        """Sees to the store and to versions published by others, as long as the server lives."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._revive_store()
            await self._look_after_store()
            versions = {worker.version for worker in self.workers if worker.version and not worker.refused}
            if len(versions) == 1:
                self._served = versions.pop()
            await self._load_users()

    def _revive_store(self) -> None:
        if self._embedded is not None and not self._embedded.running:
            log.error("embedded_store_ended")
            try:
                self._embedded.restart()
            except RecsysError as error:
                log.error("embedded_store_not_restarted", reason=str(error))

    async def _look_after_store(self) -> None:
        assert self._store is not None
        try:
            await self._store.ping()
            self.store_available = True
        except StoreError as error:
            if self.store_available:
                log.warning("store_away", reason=str(error))
            self.store_available = False

    async def _load_users(self) -> None:
        """Loads the users of the bundle being served into the embedded store, where it has nothing newer."""
        version = self._served or current(self.settings.bundles).name
        if self._embedded is None or self._store is None or version == self._loaded or not self.store_available:
            return
        self._loaded = version
        try:
            users = BundleUsers.open(bundle_path(self.settings.bundles, version) / USERS_FOLDER)
            written = await self._store.load(users, source=version)
            log.info("users_loaded", version=version, written=written)
        except StoreError as error:
            self._loaded = None
            log.warning("users_not_loaded", version=version, reason=str(error))

    async def refresh(self) -> None:
        """Asks every worker for fresh numbers."""
        await self._all(lambda worker: worker.refresh())

    async def measurements(self) -> tuple[Measurements, Gauges]:
        """Counts of all workers, past ones too, and how the server stands now."""
        await self.refresh()
        gauges = Gauges(
            versions=tuple(worker.version for worker in self.workers),
            in_flight=sum(worker.in_flight for worker in self.workers),
            restarts=sum(worker.restarts for worker in self.workers),
            store_available=self.store_available,
            uptime=time.monotonic() - self.started,
        )
        return Measurements.merged(worker.measurements for worker in self.workers), gauges

    def _scrape(self, loop: asyncio.AbstractEventLoop) -> Callable[[], tuple[Measurements, Gauges]]:
        """`measurements` for the thread of the HTTP server."""
        return lambda: asyncio.run_coroutine_threadsafe(self.measurements(), loop).result(_SCRAPE_SECONDS)

    async def _end(self) -> None:
        """Ends everything, calls in flight first, the store last."""
        if self._admin is not None:
            await self._admin.stop(0)
        await self._all(lambda worker: worker.stop())
        await _cancel(self._tasks)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.shutdown)
            self._metrics.server_close()
        if self._store is not None:
            await self._store.close()
        if self._embedded is not None:
            self._embedded.close()
        if self._holder is not None:
            self._holder.close()


def _has_begun_or_given_up(worker: WorkerProcess) -> bool:
    return worker.serving or worker.failure is not None or worker.restarts >= ATTEMPTS


async def _served_by(worker: WorkerProcess, version: str) -> None:
    """Has a worker look at CURRENT and waits until it serves the version or refuses it."""
    worker.refused = ""
    worker.look()
    await worker.wait_for(lambda w: w.version == version or bool(w.refused))


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, RecsysError):
            await task

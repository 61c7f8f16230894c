"""One serving process: a gRPC server on the shared port, the bundle in memory, a line to the supervisor."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import grpc.aio
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from recsys.errors import RecsysError
from recsys.stores.opening import open_store
from services.pb import recsys_pb2 as pb
from services.rpc import credentials, logs
from services.rpc.admission import Admission
from services.rpc.bundles import BundleWatcher, load_first
from services.rpc.control import Ask, Control, Failed, Look, Serving, Snapshot, Start
from services.rpc.engine import Engine
from services.rpc.lifeline import die_with_parent
from services.rpc.measurements import BUNDLES_REFUSED, Measurements
from services.rpc.servicers import add_services
from services.rpc.settings import MAX_MESSAGE_BYTES, ServeSettings, WorkerSettings
from services.rpc.store_guard import GuardedStore

log = structlog.get_logger(__name__)

PUBLIC_SERVICES: Final = tuple(
    pb.DESCRIPTOR.services_by_name[name].full_name for name in ("Retrieval", "Scoring", "Recommendation", "Events")
)
SERVER_OPTIONS: Final = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)
_LAST_BYTES_SECONDS: Final = 0.25
"""What answers that are written already may take to leave."""
_REFUSING_SECONDS: Final = 0.2
_DRAIN_POLL_SECONDS: Final = 0.01


class Worker:
    """Serves one bundle at a time until told to stop."""

    def __init__(self, settings: WorkerSettings, control: Control) -> None:
        self._settings: ServeSettings = settings.serve
        self._last_good = settings.last_good
        self._control = control
        self._measurements = Measurements()
        self._admission = Admission(
            self._settings.max_in_flight, self._settings.default_deadline_ms / 1000, self._measurements
        )
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # a name set at run time
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Loads, serves, drains.

        Raises:
            RecsysError: there is no bundle to start with, or the port cannot be taken.
        """
        settings = self._settings
        bundle, refused = await asyncio.to_thread(load_first, settings.bundles, self._last_good)
        store = GuardedStore(
            open_store(settings.redis_url, settings.namespace, read_timeout=settings.store_timeout_ms / 1000),
            self._measurements,
        )
        engine = Engine(bundle, store, self._measurements, settings.user_cache_mb * 1024 * 1024)
        server = self._server(engine)
        watcher = BundleWatcher(settings.bundles, bundle.version, engine.switch, self._report, settings.poll_seconds)
        for stopping in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(stopping, self._stop.set)
        await store.ping()
        await server.start()
        await self._say_health(health_pb2.HealthCheckResponse.SERVING)
        # Everything loaded so far lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self._report(refused or Serving(version=bundle.version))
        tasks = [asyncio.create_task(watcher.run()), asyncio.create_task(self._listen(watcher, store))]
        await self._stop.wait()
        await self._drain(server)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await store.close()

    def _server(self, engine: Engine) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=credentials.interceptors(self._settings.credentials), options=SERVER_OPTIONS
        )
        add_services(server, engine, self._admission, self._measurements)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*PUBLIC_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        credentials.add_port(server, self._settings.listen, self._settings.credentials)
        return server

    async def _say_health(self, status: Any) -> None:
        for name in ("", *PUBLIC_SERVICES):
            await self._health.set(name, status)

    def _report(self, message: Any) -> None:
        if message.kind == "refused":
            self._measurements.count(BUNDLES_REFUSED)
        self._control.send(message)

    async def _listen(self, watcher: BundleWatcher, store: GuardedStore) -> None:
        """Answers the supervisor; without one there is nothing to live for."""
        while (message := await self._control.receive()) is not None:
            if isinstance(message, Look):
                watcher.ask()
            elif isinstance(message, Ask):
                snapshot = Snapshot(
                    measurements=self._measurements.to_json(),
                    in_flight=self._admission.in_flight,
                    store_available=store.available,
                )
                self._control.send(snapshot)
        self._stop.set()

    async def _drain(self, server: grpc.aio.Server) -> None:
        """Tells load balancers, takes calls a moment longer, refuses new ones, finishes those in flight.

        New calls are refused before the server stops, since stopping would break off those that have
        arrived but not begun, with a code that clients do not try again on.
        """
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_notice_seconds)
        self._admission.close()
        await asyncio.sleep(_REFUSING_SECONDS)
        end = time.monotonic() + self._settings.drain_seconds
        while self._admission.in_flight and time.monotonic() < end:
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await server.stop(_LAST_BYTES_SECONDS)


async def serve(sock: socket.socket) -> int:
    """Reads the settings from the supervisor and serves; returns the exit code."""
    control = await Control.over(sock)
    start = await control.receive()
    if not isinstance(start, Start):
        return 1
    logs.configure(start.settings.serve.log_level)
    try:
        await Worker(start.settings, control).run()
    except RecsysError as error:
        control.send(Failed(reason=str(error), exit_code=error.exit_code))
        await asyncio.sleep(0)
        control.close()
        return error.exit_code
    return 0


def main(arguments: Sequence[str]) -> int:
    """`python -m services.rpc.worker DESCRIPTOR PARENT`: a process that only the supervisor starts."""
    descriptor, parent = map(int, arguments)
    # Ctrl-C reaches the whole group of processes; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)
    return uvloop.run(serve(socket.socket(fileno=descriptor)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The two servers of a benchmark side by side, and what they use of the machine."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from recsys.errors import RecsysError
from services.rpc.echo import command as echo_command
from services.rpc.settings import Address

_START_SECONDS: Final = 300
_CALLS: Final = re.compile(r'^recsys_calls_total\{code="(\w+)",rpc="Recall"\} ([\d.e+]+)', re.MULTILINE)
_WORKER: Final = "services.rpc.worker"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server has done so far: calls, those that failed, seconds of CPU of its workers."""

    calls: int
    errors: int
    cpu_seconds: float

    def since(self, before: Usage) -> Usage:
        """What it did between two moments."""
        return Usage(self.calls - before.calls, self.errors - before.errors, self.cpu_seconds - before.cpu_seconds)

    @property
    def cpu_us_per_call(self) -> float:
        """Microseconds of CPU a call."""
        return 1e6 * self.cpu_seconds / max(self.calls, 1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the servers are.

    Attributes:
        echo, server, metrics: HOST:PORT.
        workers: processes of the server that answer calls.
    """

    echo: str
    server: str
    metrics: str
    workers: tuple[psutil.Process, ...]

    def usage(self) -> Usage:
        """What the server has done so far."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            counts = {code: int(float(value)) for code, value in _CALLS.findall(answer.read().decode())}
        times = [worker.cpu_times() for worker in self.workers]
        return Usage(
            calls=sum(counts.values()),
            # What h2load has under way when its time is up, it cancels.
            errors=sum(count for code, count in counts.items() if code not in ("OK", "CANCELLED")),
            cpu_seconds=sum(part.user + part.system for part in times),
        )


@contextmanager
def servers(bundles: Path, store: Path, workers: int) -> Iterator[Place]:
    """An echo server and a Recall server on free ports, of the same number of processes, until the block ends.

    Raises:
        RecsysError: one of them does not come up.
    """
    with ExitStack() as stack:
        echo, listen, metrics = (Address(host="127.0.0.1", port=_free_port()) for _ in range(3))
        for _ in range(workers):
            stack.enter_context(_process(echo_command(echo)))
        arguments = ["serve", "--bundles", str(bundles), "--store-dir", str(store), "--workers", str(workers)]
        arguments += ["--listen", str(listen), "--metrics-listen", str(metrics), "--admin-listen", "none"]
        server = stack.enter_context(_process([sys.executable, "-m", "services.cli.main", *arguments]))
        _await(echo, None)
        _await(metrics, server)
        children = psutil.Process(server.pid).children()
        yield Place(str(echo), str(listen), str(metrics), tuple(c for c in children if _WORKER in c.cmdline()))


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(address: Address, process: subprocess.Popen[bytes] | None) -> None:
    """Waits until somebody listens; a server does so on its metrics port once all its workers serve."""
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise RecsysError(f"the server ended with exit code {process.returncode} before it served")
        with socket.socket() as probe:
            if probe.connect_ex((address.host, address.port)) == 0:
                return
        time.sleep(0.1)
    raise RecsysError(f"nobody listens on {address} after {_START_SECONDS} s")

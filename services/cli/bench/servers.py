"""The servers of a benchmark side by side, and what they use of the machine."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
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
_VECTORS: Final = re.compile(r'^recsys_user_vectors_total\{channel="[^"]*",source="(\w+)"\} ([\d.e+]+)', re.MULTILINE)
_CALLS: Final = re.compile(r'^recsys_calls_total\{code="(\w+)",rpc="Recall"\} ([\d.e+]+)', re.MULTILINE)
_WORKER: Final = "services.rpc.worker"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server has done so far.

    Attributes:
        calls: Recalls answered.
        errors: those that failed.
        cpu_seconds: of its workers.
        cached, made: users' vectors out of the cache and out of a tower.
    """

    calls: int
    errors: int
    cpu_seconds: float
    cached: int
    made: int

    def since(self, before: Usage) -> Usage:
        """What it did between two moments."""
        return Usage(
            self.calls - before.calls,
            self.errors - before.errors,
            self.cpu_seconds - before.cpu_seconds,
            self.cached - before.cached,
            self.made - before.made,
        )

    @property
    def cpu_us_per_call(self) -> float:
        """Microseconds of CPU a call."""
        return 1e6 * self.cpu_seconds / max(self.calls, 1)

    @property
    def hit_rate(self) -> float:
        """Share of users' vectors that came out of the cache."""
        return self.cached / max(self.cached + self.made, 1)


@dataclass(frozen=True, slots=True)
class Server:
    """One server.

    Attributes:
        address, metrics: HOST:PORT.
        workers: processes that answer calls.
    """

    address: str
    metrics: str
    workers: tuple[psutil.Process, ...]

    def usage(self) -> Usage:
        """What the server has done so far."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        counts = {code: int(float(value)) for code, value in _CALLS.findall(text)}
        vectors = Counter[str]()
        for source, value in _VECTORS.findall(text):
            vectors[source] += int(float(value))
        times = [worker.cpu_times() for worker in self.workers]
        return Usage(
            calls=sum(counts.values()),
            # What h2load has under way when its time is up, it cancels.
            errors=sum(count for code, count in counts.items() if code not in ("OK", "CANCELLED")),
            cpu_seconds=sum(part.user + part.system for part in times),
            cached=vectors["cache"],
            made=vectors["tower"],
        )


@contextmanager
def echo_server(workers: int) -> Iterator[str]:
    """HOST:PORT of an echo server of so many processes, until the block ends."""
    echo = _free_address()
    with ExitStack() as stack:
        for _ in range(workers):
            stack.enter_context(_process(echo_command(echo)))
        _await(echo, None)
        yield str(echo)


@contextmanager
def recall_server(bundles: Path, store: Path, workers: int, *flags: str) -> Iterator[Server]:
    """`recsys serve` on free ports with an empty store of its own in `store`, until the block ends.

    Raises:
        RecsysError: it does not come up.
    """
    shutil.rmtree(store, ignore_errors=True)
    listen, metrics = _free_address(), _free_address()
    arguments = ["serve", "--bundles", str(bundles), "--store-dir", str(store), "--workers", str(workers)]
    arguments += ["--listen", str(listen), "--metrics-listen", str(metrics), "--admin-listen", "none", *flags]
    with _process([sys.executable, "-m", "services.cli.main", *arguments]) as server:
        _await(metrics, server)
        children = psutil.Process(server.pid).children()
        yield Server(str(listen), str(metrics), tuple(c for c in children if _WORKER in c.cmdline()))


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _free_address() -> Address:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Address(host="127.0.0.1", port=probe.getsockname()[1])


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

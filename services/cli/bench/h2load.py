"""Drives a gRPC server with h2load: prepared bodies, no client library in the way, every answer accounted for."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from recsys.errors import MissingPartError, RecsysError

STREAMS: Final = 1
"""Calls a connection has under way at full load."""
WARM_UP_SECONDS: Final = 1

_REQUESTS: Final = re.compile(r"requests: .*?(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_DATA: Final = re.compile(r"traffic: .*\((\d+)\) data")


@dataclass(frozen=True, slots=True)
class Load:
    """What came back under one load.

    Attributes:
        qps: answers a second.
        failed: requests without an HTTP answer.
        bytes_per_answer: mean bytes of body; an error of gRPC has none, and HTTP status 200 all the same.
        p50_ms, p99_ms: time to the end of an answer.
    """

    qps: float
    failed: int
    bytes_per_answer: float
    p50_ms: float
    p99_ms: float


def require() -> None:
    """Makes sure that h2load is there.

    Raises:
        MissingPartError: says how to get it.
    """
    if shutil.which("h2load") is None:
        raise MissingPartError(
            "h2load is not installed: on Debian or Ubuntu `apt-get install nghttp2-client`, "
            "on macOS `brew install nghttp2`, on Fedora `dnf install nghttp2`"
        )


def frame(message: bytes) -> bytes:
    """A message as gRPC sends it: uncompressed flag, length, content."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def run(server: str, method: str, messages: Sequence[bytes], *, seconds: int, rate: float | None = None) -> Load:
    """Sends each message over and over on a connection of its own.

    Args:
        server: HOST:PORT.
        method: /package.Service/Method.
        messages: one connection each, so that a server's caches see many users.
        seconds: how long, after a second of warming up.
        rate: calls a second in all; None = as many as come back.

    Raises:
        RecsysError: h2load failed.
    """
    require()
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            _start(Path(folder), place, f"http://{server}{method}", message, seconds, rate and rate / len(messages))
            for place, message in enumerate(messages)
        ]
        outputs = [process.communicate()[0] for process in runs]
        if any(process.returncode for process in runs):
            raise RecsysError(f"h2load failed: {outputs[0].strip().splitlines()[-1]}")
        micros = np.concatenate([_times(Path(folder) / f"{place}.log") for place in range(len(messages))])
    counts = [list(map(int, found.groups())) for text in outputs if (found := _REQUESTS.search(text))]
    sent = [int(found.group(1)) for text in outputs if (found := _DATA.search(text))]
    if len(counts) != len(messages) or not len(micros):
        raise RecsysError(f"h2load got no answers from {server}: {outputs[0].strip().splitlines()[-1]}")
    succeeded = sum(count[1] for count in counts)
    return Load(
        qps=succeeded / seconds,
        failed=sum(count[2] + count[3] + count[4] for count in counts),
        bytes_per_answer=sum(sent) / max(succeeded, 1),
        p50_ms=float(np.percentile(micros, 50)) / 1000,
        p99_ms=float(np.percentile(micros, 99)) / 1000,
    )


def median(loads: Sequence[Load]) -> Load:
    """Medians of several runs, figure by figure; failures are added up."""
    return Load(
        qps=statistics.median(load.qps for load in loads),
        failed=sum(load.failed for load in loads),
        bytes_per_answer=statistics.median(load.bytes_per_answer for load in loads),
        p50_ms=statistics.median(load.p50_ms for load in loads),
        p99_ms=statistics.median(load.p99_ms for load in loads),
    )


def _start(
    folder: Path, place: int, url: str, message: bytes, seconds: int, rate: float | None
) -> subprocess.Popen[str]:
    body = folder / f"{place}.bin"
    body.write_bytes(frame(message))
    command = ["h2load", "-c1", "-t1", f"-m{STREAMS}", f"-D{seconds}", f"--warm-up-time={WARM_UP_SECONDS}"]
    command += [f"--log-file={folder / f'{place}.log'}", "-d", str(body)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command += [f"--rps={rate:.2f}"] if rate is not None else []
    return subprocess.Popen([*command, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _times(log: Path) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Microseconds of every answer; the log's columns are start, HTTP status, microseconds."""
    lines = log.read_text().split("\n") if log.exists() else []
    rows = [line.split("\t") for line in lines if line]
    return np.array([int(row[2]) for row in rows if row[1] == "200"], np.int64)

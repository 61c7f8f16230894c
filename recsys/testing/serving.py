"""A real server for tests: `recsys serve` as a process of its own, on free ports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

READY: Final = re.compile(r"serving (\S+) on (\S+); admin (\S+); metrics (\S+); store (\S+)")
_STOP_SECONDS: Final = 30


class RunningServer:
    """Starts a server and waits until it says that it serves.

    Args:
        bundles: folder of versions.
        arguments: further flags of `recsys serve`.
        environment: variables beside those of this process.

    Attributes:
        process: the supervisor.
        version, address, admin, store: what the first line says.
        metrics: URL.
    """

    def __init__(self, bundles: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.log = bundles.parent / f"serve-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "services.cli.main", "serve", "--bundles", str(bundles)]
        command += ["--listen", "127.0.0.1:0", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(environment or {})}
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = READY.match(line)
        if found is None:
            raise AssertionError(f"the server did not come up: {line} {self.log.read_text()}")
        self.version, self.address, self.admin, self.metrics, self.store = found.groups()

    def processes(self) -> list[psutil.Process]:
        """Workers and the embedded store."""
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def workers(self) -> list[psutil.Process]:
        """The processes that answer calls."""
        return [child for child in self.processes() if "services.rpc.worker" in child.cmdline()]

    def stop(self) -> int:
        """Asks the server to end as an operator would; its exit code."""
        self.process.terminate()
        return self.process.wait(_STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()

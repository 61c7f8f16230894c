"""What a figure needs beside it to be worth anything: machine, command, commit, date, duration."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import recsys


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where and how figures were taken."""

    date: str
    machine: str
    command: str
    commit: str

    @classmethod
    def now(cls) -> Provenance:
        """Of this process."""
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), machine(), command(), commit())

    def as_json(self) -> dict[str, Any]:
        """For report.json."""
        return asdict(self)


def machine() -> str:
    """Processor, cores this process may use, memory, Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{_processor()}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def command() -> str:
    """The command line, as one would type it."""
    program = Path(sys.argv[0]).name
    return shlex.join(["recsys" if program == "main.py" else program, *sys.argv[1:]])


def commit() -> str:
    """The commit of the source tree that runs, with a mark for local changes; else the package's version."""
    root = Path(recsys.__file__).parents[1]
    if not (root / ".git").exists():  # an installed package: a repository further up is somebody else's
        return f"version {recsys.__version__}"
    described = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(described, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return f"version {recsys.__version__}"


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

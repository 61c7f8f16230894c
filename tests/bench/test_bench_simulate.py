"""Speed and memory of `recsys data simulate`: `pytest -m bench -s tests/bench/test_bench_simulate.py`.

A hundred million events of a million users and items: some minutes, and 5 GB of disk below the temporary directory.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recsys.data.dataset import Dataset

EVENTS = 100_000_000
MOST_MIB = 4 * 1024

pytestmark = pytest.mark.bench


def test_a_hundred_million_events_within_four_gib(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.cli.main", "data", "simulate", "--preset", "million"]
    started = time.perf_counter()
    subprocess.run([*command, "--events", str(EVENTS), "--out", str(tmp_path / "market")], check=True)
    seconds = time.perf_counter() - started
    events = Dataset.open(tmp_path / "market").info.counts.events
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"\n{events:,} events in {seconds:.0f} s: {events / seconds:,.0f} events/s, at most {peak:,.0f} MiB")
    assert events == pytest.approx(EVENTS, rel=0.03)
    assert peak < MOST_MIB

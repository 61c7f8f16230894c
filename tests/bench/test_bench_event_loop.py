"""What the event loop costs, stage by stage: `pytest -m bench tests/bench/test_bench_event_loop.py -s`.

Record through gRPC with the log on disk within a second or before the answer; drain; append.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import polars as pl
import psutil
import pytest
import uvloop

from recsys.bundle.publish import publish
from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID, EventType
from recsys.data.dataset import write_dataset
from recsys.stores.draining import Drain
from recsys.stores.embedded import EmbeddedValkey
from recsys.stores.event_parts import EventParts
from recsys.stores.redis_store import RedisStore
from recsys.stores.store import Event, StreamEntry
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.serving import RunningServer
from recsys.testing.toy import write_toy
from services.pb import recsys_pb2 as pb
from services.pb import recsys_pb2_grpc as pb_grpc

USERS, ITEMS, NOW = 100_000, 1_000_000, 1_700_000_000_000
ROUNDS = 3

pytestmark = pytest.mark.bench


def events(count: int, first: int = 1 << 40) -> list[Event]:
    rng = np.random.default_rng(first)
    users, items = rng.integers(USERS, size=count).tolist(), rng.integers(ITEMS, size=count).tolist()
    return [Event(first + n, users[n], items[n], EventType.CLICK, NOW + n) for n in range(count)]


def record_requests(count: int, size: int, first: int) -> list[pb.RecordRequest]:
    told = [
        pb.Event(event_id=e.event_id, user_id=e.user_id, item_id=e.item_id, type=2, timestamp_ms=e.timestamp_ms)
        for e in events(count, first)
    ]
    return [pb.RecordRequest(events=told[at : at + size]) for at in range(0, count, size)]


def rate_of(address: str, requests: Sequence[pb.RecordRequest], clients: int) -> float:
    """Events a second that so many clients at once get recorded."""

    def send(mine: Sequence[pb.RecordRequest]) -> int:
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = pb_grpc.EventsStub(channel)
            return sum(stub.Record(request).accepted for request in mine)

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        accepted = sum(pool.map(send, [requests[n::clients] for n in range(clients)]))
    assert accepted == sum(len(request.events) for request in requests)
    return accepted / (time.perf_counter() - start)


def test_record_over_grpc(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    publish(bundles, write_toy_bundle(bundles, write_toy(tmp_path / "data"), tmp_path / "work").name)
    shapes = {"one event a call": (1_500, 1), "100 events a call": (40_000, 100)}
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in range(ROUNDS):
        for mode, flags in {"within a second": [], "before the answer": ["--durable-events"]}.items():
            with RunningServer(bundles, "--workers", "2", "--store-dir", str(tmp_path / mode), *flags) as server:
                for shape, (count, size) in shapes.items():
                    requests = record_requests(count, size, (turn + 1) * size << 40)
                    rates.setdefault((shape, mode), []).append(rate_of(server.address, requests, clients=8))
    for (shape, mode), measured in rates.items():
        print(f"\nrecord, {shape}, on disk {mode}: {statistics.median(measured):,.0f} events/s")


def test_drain(tmp_path: Path) -> None:
    count = 100_000
    told = events(count)

    async def run(url: str, folder: Path) -> float:
        store = RedisStore(url, read_timeout=60, write_timeout=60)
        for at in range(0, count, 2_000):
            await store.record(told[at : at + 2_000])
        with EventParts(folder) as parts:
            start = time.perf_counter()
            done = await Drain(store, parts).run()
            seconds = time.perf_counter() - start
        await store.close()
        assert done.events == count
        return count / seconds

    rates = []
    for turn in range(ROUNDS):
        with EmbeddedValkey(tmp_path / f"valkey{turn}") as server:
            rates.append(uvloop.run(run(server.url, tmp_path / f"parts{turn}")))
    print(f"\ndrain {count:,} events: {statistics.median(rates):,.0f} events/s")


@pytest.mark.parametrize("held", [1_000_000, 10_000_000])
def test_append(tmp_path: Path, held: int) -> None:
    count = 200_000
    rng = np.random.default_rng(0)
    old = pl.DataFrame(
        {
            USER_ID: rng.integers(USERS, size=held),
            ITEM_ID: rng.integers(ITEMS, size=held),
            TIMESTAMP_MS: np.sort(rng.integers(NOW - 10**9, NOW + 10**6, size=held)),
        }
    )
    data = write_dataset(tmp_path / "data", events=old, name="bench", time="real").path
    with EventParts(tmp_path / "parts") as parts:
        told = [StreamEntry(f"{n + 1}-0", n + 1, event) for n, event in enumerate(events(count))]
        for at in range(0, count, 100_000):
            parts.write("abc", told[at : at + 100_000])
    for what in ("new", "there already"):
        command = [sys.executable, "-m", "services.cli.main", "data", "append", data, "--events", tmp_path / "parts"]
        start = time.perf_counter()
        process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peak = 0
        while process.poll() is None:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        assert process.returncode == 0
        print(
            f"\nappend {count:,} events, {what}, to {held:,}: {seconds:.1f} s, {(held + count) / seconds:,.0f} rows/s, "
            f"at most {peak / 2**20:,.0f} MiB"
        )

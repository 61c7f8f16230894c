"""How fast the store is, in one process on a unix socket: `pytest -m bench tests/bench/test_bench_stores.py -s`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import numpy as np
import pytest
import uvloop

from recsys.columns import EventType
from recsys.stores.embedded import EmbeddedValkey
from recsys.stores.redis_store import RedisStore
from recsys.stores.store import Event, UserState

USERS, HISTORY = 100_000, 30

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def states() -> list[tuple[int, UserState]]:
    """Users with three attributes and a history of HISTORY events each."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(1_600_000_000_000, 1_700_000_000_000, (USERS, HISTORY)), axis=1)
    items = rng.integers(0, 1_000_000, (USERS, HISTORY))
    attributes = {"gender": "F", "age": 33, "zip": "00100"}
    return [(user, UserState(attributes, items[user], times[user], items[user])) for user in range(USERS)]


def test_bulk_load(server: EmbeddedValkey, states: list[tuple[int, UserState]]) -> None:
    async def run() -> None:
        store = RedisStore(server.url, read_timeout=10, write_timeout=10)
        for what in ("into an empty store", "again, nothing newer"):
            start = time.perf_counter()
            written = await store.load(states)
            seconds = time.perf_counter() - start
            print(f"\nload {what}: {written} written, {USERS / seconds:,.0f} users/s")
        await store.close()

    uvloop.run(run())


@pytest.mark.parametrize("concurrency", [1, 16, 64, 256])
def test_read(server: EmbeddedValkey, states: list[tuple[int, UserState]], concurrency: int) -> None:
    count = 5_000 if concurrency == 1 else 60_000
    ids = np.random.default_rng(1).integers(0, int(1.2 * USERS), count).tolist()

    async def run() -> None:
        store = RedisStore(server.url, read_timeout=10, write_timeout=10)
        await store.load(states)

        async def reader(mine: list[int]) -> list[float]:
            taken = []
            for user in mine:
                start = time.perf_counter()
                await store.read(user)
                taken.append(time.perf_counter() - start)
            return taken

        start = time.perf_counter()
        taken = await asyncio.gather(*(reader(ids[i::concurrency]) for i in range(concurrency)))
        seconds = time.perf_counter() - start
        micros = np.concatenate(taken) * 1e6
        print(
            f"\nread at concurrency {concurrency}: {count / seconds:,.0f} reads/s, "
            f"p50 {np.median(micros):.0f} µs, p99 {np.quantile(micros, 0.99):.0f} µs"
        )
        await store.close()

    uvloop.run(run())


@pytest.mark.parametrize("batch", [1, 10, 100])
def test_record(server: EmbeddedValkey, batch: int) -> None:
    rng = np.random.default_rng(batch)
    ids = rng.permutation(2**40 + np.arange(20_000)) + batch * 10**9
    events = [
        Event(int(i), int(rng.integers(USERS)), int(rng.integers(10**6)), EventType.CLICK, 1_700_000_000_000 + n)
        for n, i in enumerate(ids[: 5_000 if batch == 1 else 20_000])
    ]

    async def run() -> None:
        store = RedisStore(server.url, read_timeout=10, write_timeout=10)
        start = time.perf_counter()
        for at in range(0, len(events), batch):
            await store.record(events[at : at + batch])
        print(f"\nrecord {batch} at a time: {len(events) / (time.perf_counter() - start):,.0f} events/s")
        await store.close()

    uvloop.run(run())

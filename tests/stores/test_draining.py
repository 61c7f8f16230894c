"""Draining: every event of the stream ends in exactly one part, whenever the drain was killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import polars as pl
import pytest

from recsys.columns import ITEM_KEY, USER_KEY, EventType
from recsys.data.dataset import EVENT_SCHEMA
from recsys.errors import DataError, PreconditionError, StoreError
from recsys.stores.draining import Drain
from recsys.stores.embedded import EmbeddedValkey
from recsys.stores.event_parts import PART_SCHEMA, EventParts, part_of
from recsys.stores.memory import MemoryStore
from recsys.stores.redis_store import RedisStore
from recsys.stores.store import Event, Store
from recsys.testing.store_contract import NOW, click, events_of

namespaces = (f"drain-{i}" for i in count())
PATIENT = {"read_timeout": 10.0, "write_timeout": 10.0}


@pytest.fixture
def namespace() -> str:
    return next(namespaces)


@pytest.fixture
async def store(valkey: EmbeddedValkey, namespace: str) -> AsyncIterator[RedisStore]:
    opened = RedisStore(valkey.url, namespace, **PATIENT)
    yield opened
    await opened.close()


def written(folder: Path) -> pl.DataFrame:
    """All parts of a folder, in the order of their names."""
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])


def ids_in(folder: Path) -> list[int]:
    return written(folder)["event_id"].to_list()


async def drain(store: Store, folder: Path, **options: object) -> Drain:
    with EventParts(folder) as parts:
        drain = Drain(store, parts, **options)  # type: ignore[arg-type]
        await drain.run()
    return drain


def clicks(first: int, last: int) -> list[Event]:
    return [click(1, n, NOW + n, event_id=n) for n in range(first, last + 1)]


def test_a_part_has_the_columns_of_a_datasets_events_and_the_keys() -> None:
    keys = {USER_KEY: pl.String(), ITEM_KEY: pl.String()}
    assert pl.Schema({**EVENT_SCHEMA, **keys}) == PART_SCHEMA


def test_a_part_says_of_an_event_what_was_recorded() -> None:
    event = Event(2**63 - 1, -(2**63), 0, EventType.CONVERSION, NOW, click_id=-1, value=2.5, user_key="Zoë")
    (row,) = part_of([event, click(1, 2)])[:1].iter_rows(named=True)
    assert row == {
        "user_id": -(2**63), "item_id": 0, "event": "conversion", "timestamp_ms": NOW, "event_id": 2**63 - 1,
        "click_id": -1, "value": 2.5, "user_key": "Zoë", "item_key": None,
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 7, 100])
async def test_every_event_ends_in_one_part_and_leaves_the_stream(
    store: RedisStore, tmp_path: Path, batch: int
) -> None:
    await store.record(clicks(1, 40))
    first = await drain(store, tmp_path, batch=batch)
    await store.record(clicks(41, 50))
    second = await drain(store, tmp_path, batch=batch)
    assert (first.done.events, second.done.events) == (40, 10)
    assert first.done.parts == -(-40 // batch)
    assert ids_in(tmp_path) == list(range(1, 51))
    assert await events_of(store) == []


async def test_nothing_new_writes_nothing(store: RedisStore, tmp_path: Path) -> None:
    assert (await drain(store, tmp_path)).done.events == 0
    assert list(tmp_path.glob("*.parquet")) == []


async def test_a_drain_killed_before_it_trimmed_writes_nothing_twice(store: RedisStore, tmp_path: Path) -> None:
    await store.record(clicks(1, 10))
    with EventParts(tmp_path) as parts:  # what a drain does, up to the kill
        claim = await store.claim_stream("killed", 60)
        parts.write(claim.stream, [entry async for entry in store.stream()][:6])
        await store.claim_stream("killed", 0)
    await store.record(clicks(11, 12))
    again = await drain(store, tmp_path)
    assert again.done.events == 6
    assert again.done.dropped == 0
    assert ids_in(tmp_path) == list(range(1, 13))


async def test_a_drain_killed_before_its_part_was_whole_writes_it_again(store: RedisStore, tmp_path: Path) -> None:
    await store.record(clicks(1, 3))
    claim = await store.claim_stream("killed", 0)
    half = tmp_path / f".events-{claim.stream}-0000000000001-000000-000000000003.parquet.abcd1234.tmp"
    half.write_bytes(b"PAR1")
    await drain(store, tmp_path)
    assert ids_in(tmp_path) == [1, 2, 3]


async def test_a_drain_that_cannot_write_forgets_nothing(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.record(clicks(1, 3))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", full)
        with pytest.raises(DataError, match="No space left"):
            await drain(store, tmp_path)
    assert len(await events_of(store)) == 3
    await drain(store, tmp_path)
    assert ids_in(tmp_path) == [1, 2, 3]


async def test_what_the_bound_dropped_before_a_drain_is_counted_and_said(
    valkey: EmbeddedValkey, namespace: str, tmp_path: Path
) -> None:
    store = RedisStore(valkey.url, namespace, stream_length=500, **PATIENT)
    said: list[str] = []
    for start in (1, 1001):
        for at in range(start, start + 1_000, 250):
            await store.record(clicks(at, at + 249))
        kept = len(await events_of(store))
        done = (await drain(store, tmp_path, batch=64, report=said.append)).done
        assert (done.events, done.dropped) == (kept, 1_000 - kept)
        assert f"{1_000 - kept:,} events are lost" in said[-1]
    await store.record(clicks(2_001, 2_010))
    assert (await drain(store, tmp_path, report=said.append)).done.dropped == 0
    assert len(said) == 2
    await store.close()


async def test_a_stream_that_began_anew_is_drained_from_its_start(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    for first in (1, 101):  # a wiped store counts from one again; its positions may even lie before the old ones
        store = MemoryStore()
        await store.record(clicks(first, first + 9))
        assert (await drain(store, tmp_path)).done.events == 10
    assert sorted(ids_in(tmp_path)) == [*range(1, 11), *range(101, 111)]


async def test_two_drains_into_one_folder_are_refused(store: RedisStore, tmp_path: Path) -> None:
    with EventParts(tmp_path), pytest.raises(PreconditionError, match="another `recsys events drain`"):
        EventParts(tmp_path)
    EventParts(tmp_path).close()


async def test_two_drains_of_one_stream_are_refused_by_the_other_ones_folder(store: RedisStore, tmp_path: Path) -> None:
    with EventParts(tmp_path / "first") as parts:
        following = Drain(store, parts, stop=(stop := asyncio.Event()))
        task = asyncio.create_task(following.follow(0.01))
        await store.record(clicks(1, 3))
        while following.done.events < 3:
            await asyncio.sleep(0.01)
        with pytest.raises(PreconditionError, match=r"is being drained into .*first"):
            await drain(store, tmp_path / "second")
        stop.set()
        assert (await task).events == 3
    await store.record(clicks(4, 5))
    assert (await drain(store, tmp_path / "second")).done.events == 2


async def test_a_killed_drain_may_be_run_again_at_once(store: RedisStore, tmp_path: Path) -> None:
    with EventParts(tmp_path) as parts:
        killed = Drain(store, parts)
        await killed._claim()
    await store.record(clicks(1, 3))
    assert (await drain(store, tmp_path)).done.events == 3


async def test_following_waits_for_a_store_that_is_away(tmp_path: Path) -> None:
    class Away(MemoryStore):
        away = True

        async def claim_stream(self, holder: str, seconds: float):  # type: ignore[no-untyped-def]
            if self.away:
                raise StoreError("the store is away")
            return await super().claim_stream(holder, seconds)

    store, said, stop = Away(), [], asyncio.Event()
    await store.record(clicks(1, 3))
    with EventParts(tmp_path) as parts:
        drain = Drain(store, parts, report=said.append, stop=stop)
        task = asyncio.create_task(drain.follow(0.01))
        while not said:
            await asyncio.sleep(0.01)
        store.away = False
        while drain.done.events < 3:
            await asyncio.sleep(0.01)
        stop.set()
        await task
    assert said == ["the store is away; waiting for it to come back"]
    assert ids_in(tmp_path) == [1, 2, 3]

"""The store in memory keeps the contract."""

from __future__ import annotations

import pytest

from recsys.stores.memory import MemoryStore
from recsys.stores.store import Recorded, Store
from recsys.testing.store_contract import StoreContract, click, entries_of, history


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()


async def test_an_event_id_is_forgotten_after_its_time() -> None:
    now = 0.0
    store = MemoryStore(dedupe_seconds=60, clock=lambda: now)
    assert await store.record([click(1, 10, event_id=1)]) == Recorded(1, 0)
    now = 59.0
    assert await store.record([click(1, 10, event_id=1)]) == Recorded(0, 1)
    now = 60.0
    assert await store.record([click(1, 10, event_id=1)]) == Recorded(1, 0)


async def test_the_stream_keeps_the_newest_up_to_its_bound() -> None:
    store = MemoryStore(stream_length=3)
    await store.record([click(1, item) for item in range(10)])
    entries = await entries_of(store)
    assert [entry.event.item_id for entry in entries] == [7, 8, 9]
    assert [entry.number for entry in entries] == [8, 9, 10], "the numbers say that seven are missing"


async def test_what_was_read_does_not_change_afterwards() -> None:
    store = MemoryStore()
    await store.record([click(1, 10, 100)])
    before = await store.read(1)
    await store.record([click(1, 20, 200)])
    assert history(before) == [(10, 100)]

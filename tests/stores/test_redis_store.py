"""The store on a real server keeps the contract, and Redis what only Redis has: keys, time limits, bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from recsys.columns import EventType
from recsys.errors import ConfigError, DataError, StoreError
from recsys.stores.embedded import EmbeddedValkey
from recsys.stores.memory import MemoryStore
from recsys.stores.opening import open_store
from recsys.stores.redis_store import RedisStore
from recsys.stores.store import MAX_HISTORY, MAX_SEEN, Event, Recorded, Store
from recsys.testing.store_contract import (
    INT64_MAX,
    INT64_MIN,
    StoreContract,
    click,
    entries_of,
    events_of,
    history,
    state,
)

namespaces = (f"test-{i}" for i in count())
# Far beyond a slow machine's pauses: these tests are about what is stored, not about how fast.
PATIENT = {"read_timeout": 10.0, "write_timeout": 10.0}


@pytest.fixture
def namespace() -> str:
    return next(namespaces)


@pytest.fixture
async def redis_store(valkey: EmbeddedValkey, namespace: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(valkey.url, namespace, **PATIENT)
    yield store
    await store.close()


@pytest.fixture
def server(valkey: EmbeddedValkey) -> Redis:
    return Redis.from_url(valkey.url)


class TestRedisStore(StoreContract):
    @pytest.fixture
    def store(self, redis_store: RedisStore) -> Store:
        return redis_store


async def test_keys_are_those_that_operators_know(redis_store: RedisStore, server: Redis, namespace: str) -> None:
    await redis_store.load([(-7, state([(1, 100)], city="Bern"))])
    await redis_store.record([click(-7, 2, event_id=-9)])
    keys = {key.decode() for key in server.scan_iter(f"{namespace}:*")}
    assert keys == {f"{namespace}:{rest}" for rest in ("u:-7", "h:-7", "s:-7", "e:-9", "events")}
    kinds = {server.type(f"{namespace}:{rest}") for rest in ("u:-7", "h:-7", "s:-7", "e:-9")}
    assert kinds == {b"string"}, "one MGET must read all that a request needs"


async def test_a_read_is_one_command_however_many_ask_at_once(
    redis_store: RedisStore, server: Redis, namespace: str
) -> None:
    await redis_store.read(0)
    server.config_resetstat()
    await asyncio.gather(*(redis_store.read(user) for user in range(100)))
    assert server.info("commandstats")["cmdstat_mget"]["calls"] == 1


async def test_namespaces_do_not_see_each_other(valkey: EmbeddedValkey, redis_store: RedisStore) -> None:
    other = RedisStore(valkey.url, next(namespaces), **PATIENT)
    await redis_store.record([click(1, 10, event_id=1)])
    assert len((await other.read(1)).history_ids) == 0
    assert await other.record([click(1, 20, event_id=1)]) == Recorded(1, 0)
    assert history(await redis_store.read(1)) == [(10, click(1, 10).timestamp_ms)]
    await other.close()


@pytest.mark.parametrize("namespace", ["", "a:b", "a b", "-a", "ä", "a" * 65, "a\n"])
def test_a_namespace_that_could_reach_into_another_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        RedisStore("redis://localhost", namespace)


async def test_two_clients_recording_the_same_events_accept_each_exactly_once(
    valkey: EmbeddedValkey, namespace: str
) -> None:
    first, second = (RedisStore(valkey.url, namespace, **PATIENT) for _ in range(2))
    events = [click(1, item, item) for item in range(300)]
    batches = [events[start : start + 10] for start in range(0, 300, 10)]
    answers = await asyncio.gather(*(store.record(batch) for batch in batches for store in (first, second)))
    assert sum(answer.accepted for answer in answers) == sum(answer.duplicates for answer in answers) == 300
    assert (await first.read(1)).history_ids.tolist() == list(range(300))
    await first.close()
    await second.close()


async def test_a_script_that_the_server_forgot_is_sent_again(redis_store: RedisStore, server: Redis) -> None:
    await redis_store.record([click(1, 10, 100)])
    server.script_flush()
    assert await redis_store.record([click(1, 20, 200), click(1, 30, 300)]) == Recorded(2, 0)
    server.script_flush()
    assert await redis_store.load([(2, state([(1, 1)]))]) == 1
    assert history(await redis_store.read(1)) == [(10, 100), (20, 200), (30, 300)]


async def test_memory_is_bounded_marks_expire_and_the_stream_and_values_are_cut(
    valkey: EmbeddedValkey, server: Redis, namespace: str
) -> None:
    store = RedisStore(valkey.url, namespace, dedupe_seconds=100, stream_length=500, **PATIENT)
    await store.load([(1, state([(item, item) for item in range(MAX_HISTORY)], seen=list(range(MAX_SEEN))))])
    for start in range(MAX_SEEN, MAX_SEEN + 2_000, 500):
        await store.record([click(1, item, item, event_id=item) for item in range(start, start + 500)])
    assert 0 < server.pttl(f"{namespace}:e:{MAX_SEEN}") <= 100_000
    # The server cuts its stream in blocks of 100 entries.
    assert 500 <= server.xlen(f"{namespace}:events") <= 600
    numbers = [entry.number for entry in await entries_of(store)]
    assert numbers == list(range(numbers[0], 2_001)), "the numbers say how many are missing"
    assert server.strlen(f"{namespace}:h:1") <= 17 * MAX_HISTORY * 9 / 8
    assert server.strlen(f"{namespace}:s:1") <= 8 * MAX_SEEN * 9 / 8
    await store.close()


async def test_an_expired_mark_lets_the_event_in_again(valkey: EmbeddedValkey, server: Redis, namespace: str) -> None:
    store = RedisStore(valkey.url, namespace, dedupe_seconds=0.001, **PATIENT)
    await store.record([click(1, 10, event_id=1)])
    while server.exists(f"{namespace}:e:1"):
        await asyncio.sleep(0.001)
    assert await store.record([click(1, 10, event_id=1)]) == Recorded(1, 0)
    await store.close()


async def test_the_same_source_is_loaded_once(redis_store: RedisStore) -> None:
    users = [(1, state([(1, 100)]))]
    assert await redis_store.load(users, source="bundle-1") == 1

    def never() -> None:
        raise AssertionError("was read although the store has it")
        yield

    assert await redis_store.load(never(), source="bundle-1") == 0
    assert await redis_store.load([(1, state([(2, 200)]))], source="bundle-2") == 1
    assert await redis_store.load(users, source="bundle-2", overwrite=True) == 1


async def test_a_load_that_fails_leaves_no_mark_of_its_source(redis_store: RedisStore) -> None:
    users = [(user, state([(1, 100)])) for user in range(300)]
    with pytest.raises(DataError):
        await redis_store.load([*users, (300, state([], bad=b""))], source="bundle-1")
    assert await redis_store.load([*users, (300, state([(1, 100)]))], source="bundle-1") > 0
    assert history(await redis_store.read(300)) == [(1, 100)]


async def test_an_event_beyond_64_bits_is_refused_and_nothing_recorded(redis_store: RedisStore) -> None:
    with pytest.raises(DataError, match="64 bits"):
        await redis_store.record([click(1, 10), click(1, 2**63)])
    assert await events_of(redis_store) == []


async def test_a_value_of_a_foreign_kind_is_a_store_error_and_leaves_nothing_half_done(
    redis_store: RedisStore, server: Redis, namespace: str
) -> None:
    server.lpush(f"{namespace}:s:1", "not ours")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await redis_store.record([click(1, 10, event_id=1)])
    assert not server.exists(f"{namespace}:e:1", f"{namespace}:h:1", f"{namespace}:events")
    server.delete(f"{namespace}:s:1")
    assert await redis_store.record([click(1, 10, event_id=1)]) == Recorded(1, 0)

    server.set(f"{namespace}:h:2", b"eighteen bytes ...")
    with pytest.raises(StoreError, match="did not write"):
        await redis_store.read(2)


async def test_open_store_without_a_url_is_in_memory(valkey: EmbeddedValkey) -> None:
    assert isinstance(open_store(None), MemoryStore)
    store = open_store(valkey.url)
    assert isinstance(store, RedisStore)
    await store.ping()
    await store.close()


int64 = st.one_of(st.integers(INT64_MIN, INT64_MAX), st.integers(-3, 3), st.sampled_from([INT64_MIN, INT64_MAX, 2**53]))
random_events = st.lists(
    st.builds(
        Event,
        event_id=st.integers(0, 30),
        user_id=st.sampled_from([INT64_MIN, -1, 0, INT64_MAX]),
        item_id=int64,
        type=st.sampled_from(EventType),
        timestamp_ms=int64,
        click_id=st.none() | int64,
        value=st.none() | st.floats(allow_nan=False, width=32),
        user_key=st.none() | st.text(max_size=3),
        item_key=st.none() | st.text(max_size=3),
    ),
    max_size=40,
)
random_states = st.lists(
    st.tuples(
        st.sampled_from([INT64_MIN, -1, 0, INT64_MAX]),
        st.builds(
            lambda pairs, seen, attributes: state(sorted(pairs, key=lambda pair: pair[1]), seen, **attributes),
            st.lists(st.tuples(int64, int64), max_size=4),
            st.lists(int64, max_size=4),
            st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=3), max_size=2),
        ),
    ),
    max_size=4,
)
steps = st.lists(st.one_of(random_events, st.tuples(random_states, st.booleans())), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
async def test_lua_and_python_agree_whatever_happens(valkey: EmbeddedValkey, steps: list) -> None:
    memory, redis = MemoryStore(), RedisStore(valkey.url, next(namespaces), **PATIENT)
    for step in steps:
        if isinstance(step, list):
            assert await redis.record(step) == await memory.record(step)
        else:
            # One user at a time: within one batch Redis compares with what was there before it.
            for user in step[0]:
                assert await redis.load([user], overwrite=step[1]) == await memory.load([user], overwrite=step[1])
    for user_id in (INT64_MIN, -1, 0, INT64_MAX):
        ours, theirs = await redis.read(user_id), await memory.read(user_id)
        assert history(ours) == history(theirs)
        assert ours.seen_ids.tolist() == theirs.seen_ids.tolist()
        assert ours.attributes == theirs.attributes
    assert await events_of(redis) == await events_of(memory)
    await redis.close()

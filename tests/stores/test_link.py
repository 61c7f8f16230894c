"""A dead, hanging or returning server: errors come quickly, once, and end by themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recsys.errors import ConfigError, StoreError
from recsys.stores.embedded import EmbeddedValkey
from recsys.stores.link import Link, pack, patient_timeout, redacted
from recsys.stores.redis_store import RedisStore
from recsys.stores.store import Recorded
from recsys.testing.store_contract import click, history


class HangingServer:
    """Accepts connections, reads, never answers; counts what it was asked."""

    def __init__(self, path: Path) -> None:
        self.url, self.asked = f"unix://{path}", 0
        self._path = path

    async def __aenter__(self) -> HangingServer:
        self._server = await asyncio.start_unix_server(self._listen, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            self.asked += 1
        writer.close()


@pytest.fixture
async def hanging(tmp_path: Path) -> AsyncIterator[HangingServer]:
    async with HangingServer(tmp_path / "hanging.sock") as server:
        yield server


async def fails(store: RedisStore) -> str:
    with pytest.raises(StoreError) as caught:
        await store.read(1)
    return str(caught.value)


async def test_a_server_that_hangs_is_given_up_after_the_timeout_by_all_who_wait(hanging: HangingServer) -> None:
    store = RedisStore(hanging.url, read_timeout=0.05, retry_after=60)
    start = time.monotonic()
    answers = await asyncio.gather(*(store.read(user) for user in range(500)), return_exceptions=True)
    assert all(isinstance(answer, StoreError) and "50 ms" in str(answer) for answer in answers)
    assert time.monotonic() - start >= 0.05
    assert hanging.asked == 1, "those in the second batch must not wait for a timeout of their own"
    await store.close()


async def test_after_a_failure_nobody_asks_the_server_until_the_retry(hanging: HangingServer) -> None:
    store = RedisStore(hanging.url, read_timeout=0.02, retry_after=0.3)
    await fails(store)
    refused = 0
    while hanging.asked == 1:
        await fails(store)
        refused += 1
        await asyncio.sleep(0)
    assert refused > 10, "reads between failure and retry are refused at once"
    await store.close()


async def test_while_one_tries_a_dead_server_the_others_are_refused_at_once(hanging: HangingServer) -> None:
    link = Link(hanging.url, timeout=0.5, retry_after=0.01)
    with pytest.raises(StoreError):
        await link.exchange(pack(b"PING"), 1)
    await asyncio.sleep(0.02)
    probe = asyncio.create_task(link.exchange(pack(b"PING"), 1))
    while hanging.asked < 2:
        await asyncio.sleep(0.001)
    with pytest.raises(StoreError):
        await link.exchange(pack(b"PING"), 1)
    assert not probe.done()
    assert hanging.asked == 2
    with pytest.raises(StoreError):
        await probe
    await link.close()


async def test_a_hanging_write_does_not_hold_up_reads(valkey: EmbeddedValkey) -> None:
    store = RedisStore(valkey.url, "hanging-write", read_timeout=10, write_timeout=10)
    blocked = asyncio.create_task(store._write_link.exchange(pack(b"BLPOP", b"nothing:here", b"1"), 1))
    await asyncio.sleep(0.01)
    assert len((await store.read(1)).history_ids) == 0
    assert not blocked.done()
    await blocked
    await store.close()


async def test_a_server_killed_in_use_fails_reads_and_writes_and_is_used_again_once_it_is_back(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    store = RedisStore(server.url, read_timeout=1.0, write_timeout=1.0, retry_after=0.05)
    await store.record([click(1, 10, 100)])
    server.kill()
    assert "away" in await fails(store)
    with pytest.raises(StoreError, match="away"):
        await store.record([click(1, 20, 200)])
    with pytest.raises(StoreError, match="away"):
        await store.ping()
    server.close()

    with EmbeddedValkey(tmp_path):
        await asyncio.sleep(0.06)
        assert history(await store.read(1)) == [(10, 100)]
        assert await store.record([click(1, 20, 200)]) == Recorded(1, 0)
        assert history(await store.read(1)) == [(10, 100), (20, 200)]
        await store.close()


async def test_a_restart_between_two_reads_goes_unnoticed(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        store = RedisStore(server.url, read_timeout=10, write_timeout=10)
        await store.record([click(1, 10, 100)])
        await store.read(1)
    with EmbeddedValkey(tmp_path):
        assert history(await store.read(1)) == [(10, 100)]
        assert await store.record([click(1, 20, 200)]) == Recorded(1, 0)
        await store.close()


async def test_nobody_there_is_a_store_error_that_says_where(tmp_path: Path) -> None:
    store = RedisStore(f"unix://{tmp_path}/none.sock")
    assert str(tmp_path) in await fails(store)


async def test_a_busy_event_loop_is_not_taken_for_a_dead_server(valkey: EmbeddedValkey) -> None:
    store = RedisStore(valkey.url, "busy", read_timeout=0.1, write_timeout=10)
    await store.record([click(1, 10, 100)])
    await store.read(1)
    for _ in range(3):
        read = asyncio.create_task(store.read(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(0.15)
        assert history(await read) == [(10, 100)]
    await store.close()


async def test_patient_timeout_ends_what_takes_too_long_and_nothing_else() -> None:
    with pytest.raises(TimeoutError):
        async with patient_timeout(0.02):
            await asyncio.sleep(60)
    async with patient_timeout(0.02):
        pass
    await asyncio.sleep(0.03)


async def test_a_reader_that_gives_up_leaves_the_others_their_answers(valkey: EmbeddedValkey) -> None:
    store = RedisStore(valkey.url, "cancelled", read_timeout=10, write_timeout=10)
    await store.record([click(user, user, user) for user in range(100)])
    reads = [asyncio.create_task(store.read(user)) for user in range(100)]
    await asyncio.sleep(0)
    for read in reads[::3]:
        read.cancel()
    answers = await asyncio.gather(*reads, return_exceptions=True)
    for user, answer in enumerate(answers):
        assert isinstance(answer, asyncio.CancelledError) if user % 3 == 0 else history(answer) == [(user, user)]
    await store.close()


async def test_an_abandoned_write_does_not_lend_its_answers_to_the_next(valkey: EmbeddedValkey) -> None:
    link = Link(valkey.url, timeout=10, retry_after=0.1)
    abandoned = asyncio.create_task(link.exchange(pack(b"BLPOP", b"nothing:there", b"1") + pack(b"ECHO", b"old"), 2))
    await asyncio.sleep(0.05)
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    assert await link.exchange(pack(b"ECHO", b"new"), 1) == [b"new"]
    await link.close()


SECRET = "pa/ss@wo:rd"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{SECRET}@localhost:1/0",
        f"redis://:{SECRET}@localhost:1",
        f"redis://localhost:1/0?password={SECRET}",
        f"redis://localhost:1/0?db=2&password={SECRET}&username=x",
        f"http://user:{SECRET}@localhost",
        f"redis://user:{SECRET}@localhost:port",
        f"unix://user:{SECRET}@/no/such.sock",
    ],
)
async def test_a_password_is_never_shown(url: str) -> None:
    assert all(part not in redacted(url) for part in ("pa/", "ss@", "wo:rd"))
    try:
        store = RedisStore(url)
        shown = await fails(store) + repr(store)
    except ConfigError as error:
        shown = str(error)
    assert all(part not in shown for part in ("pa/", "ss@", "wo:rd"))


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", "redis://host:port"])
def test_a_url_that_cannot_be_read_is_refused_with_the_right_form(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://host:6379/0"):
        RedisStore(url)


def test_what_is_no_secret_stays_in_a_url() -> None:
    assert redacted("redis://localhost:6379/0") == "redis://localhost:6379/0"
    assert redacted("unix:///var/run/valkey.sock?db=1") == "unix:///var/run/valkey.sock?db=1"
    assert redacted("rediss://me:secret@host:1/0?ssl_ca_certs=/ca.pem") == "rediss://***@host:1/0?ssl_ca_certs=/ca.pem"

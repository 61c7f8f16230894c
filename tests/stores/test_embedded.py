"""The embedded server: private, persistent, one a directory, and gone when its parent is."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from recsys.errors import MissingPartError, PreconditionError, StoreError
from recsys.stores import embedded
from recsys.stores.embedded import MAX_SOCKET_PATH, EmbeddedValkey, holds_data, running_url
from recsys.stores.redis_store import RedisStore
from recsys.stores.store import Recorded
from recsys.testing.store_contract import click, history


def wait_until_gone(pid: int) -> None:
    process = psutil.Process(pid) if psutil.pid_exists(pid) else None
    if process is not None:
        process.wait(30)


def wait_until_synced(server: EmbeddedValkey) -> None:
    """The log is synced every second; while a slow disk is at it, the server keeps what follows to itself."""
    with Redis.from_url(server.url, socket_timeout=60) as client:
        assert client.execute_command("WAITAOF", 1, 0, 30_000)[0] == 1


async def test_what_was_recorded_survives_a_killed_server(tmp_path: Path) -> None:
    events = [click(1, item, item, event_id=item) for item in range(100)]
    server = EmbeddedValkey(tmp_path)
    store = RedisStore(server.url, read_timeout=10, write_timeout=10)
    await store.record(events)
    wait_until_synced(server)
    server.kill()
    server.close()
    with EmbeddedValkey(tmp_path):
        assert history(await store.read(1)) == [(item, item) for item in range(100)]
        assert await store.record(events) == Recorded(accepted=0, duplicates=100)
        assert [entry.event async for entry in store.stream()] == events
        await store.close()


def test_a_log_cut_off_in_the_middle_of_a_write_loses_that_write_only(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        client = Redis.from_url(server.url)
        client.set("first", "1")
        client.set("second", "2")
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 5)
    with EmbeddedValkey(tmp_path) as server:
        client = Redis.from_url(server.url)
        assert (client.get("first"), client.get("second")) == (b"1", None)


async def test_a_durable_store_has_on_disk_what_it_has_acknowledged(tmp_path: Path) -> None:
    events = [click(1, n) for n in range(5)]
    with EmbeddedValkey(tmp_path, durable=True) as server:
        assert Redis.from_url(server.url).config_get("appendfsync") == {"appendfsync": "always"}
        store = RedisStore(server.url, read_timeout=10, write_timeout=10)
        for event in events:
            assert (await store.record([event])).accepted == 1
            server.kill()  # at once: no second passes
            server.restart()
        assert [entry.event async for entry in store.stream()] == events
        await store.close()


def test_a_running_store_is_found_by_its_directory(tmp_path: Path) -> None:
    far = tmp_path / ("x" * 200)
    for directory in (tmp_path / "near", far):
        assert running_url(directory) is None
        assert not holds_data(directory)
        with EmbeddedValkey(directory) as server:
            assert running_url(directory) == server.url
        assert running_url(directory) is None
        assert holds_data(directory)


def test_a_second_server_in_the_same_directory_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_LOCK_PATIENCE_SECONDS", 0.05)
    with EmbeddedValkey(tmp_path) as server:
        with pytest.raises(PreconditionError, match=f"process {server.pid}"):
            EmbeddedValkey(tmp_path)
        assert Redis.from_url(server.url).ping()
    with EmbeddedValkey(tmp_path) as server:
        assert server.running


def test_no_port_is_open_and_nobody_else_may_enter(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "new") as server:
        assert psutil.Process(server.pid).net_connections("inet") == []
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "new" / "valkey.sock").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["a directory with spaces", "ümlaut %41 ?db=1 #x", "x" * 200])
async def test_any_directory_will_do(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    with EmbeddedValkey(directory) as server:
        store = RedisStore(server.url, read_timeout=10)
        await store.ping()
        await store.close()
        folder = server._socket.parent
        assert len(os.fsencode(server._socket)) <= MAX_SOCKET_PATH
        assert list(directory.glob("appendonlydir/*"))
    assert folder == directory or not folder.exists()


def test_a_relative_directory_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with EmbeddedValkey(Path("store")) as server:
        monkeypatch.chdir("/")
        assert Redis.from_url(server.url).ping()
    assert (tmp_path / "store" / "appendonlydir").is_dir()


def test_the_server_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from recsys.stores.embedded import EmbeddedValkey\n"
        "s = EmbeddedValkey(pathlib.Path(sys.argv[1])); print(s.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until_gone(pid)
    with EmbeddedValkey(tmp_path) as server:
        assert server.running


def test_the_server_ends_with_a_parent_that_ends_without_closing_it(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from recsys.stores.embedded import EmbeddedValkey\n"
        "s = EmbeddedValkey(pathlib.Path(sys.argv[1])); print(s.pid, flush=True)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    wait_until_gone(int(ended.stdout))


def test_the_server_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    servers: list[EmbeddedValkey] = []
    thread = threading.Thread(target=lambda: servers.append(EmbeddedValkey(tmp_path)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert Redis.from_url(servers[0].url).ping()
    servers[0].close()
    assert not servers[0].running


def test_a_forked_child_does_not_take_the_server_along(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        child = os.fork()
        if not child:
            server.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert Redis.from_url(server.url).ping()


def test_a_server_that_crashed_is_started_again_at_the_same_url(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        url, first = server.url, server.pid
        Redis.from_url(url).set("kept", "1")
        wait_until_synced(server)
        server.kill()
        assert not server.running
        server.restart()
        assert server.running
        assert server.url == url
        assert server.pid != first
        assert Redis.from_url(url).get("kept") == b"1"
    with pytest.raises(PreconditionError, match="closed"):
        server.restart()


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    server.close()
    server.close()
    assert not server.running


def test_beyond_its_memory_it_refuses_writes_rather_than_forget(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path, max_memory=4_000_000) as server:
        client = Redis.from_url(server.url)
        client.set("kept", "1")
        with pytest.raises(OutOfMemoryError):  # noqa: PT012  the first write may just fit
            client.mset({f"big:{i}": b"x" * 100_000 for i in range(40)})
            client.set("more", "1")
        assert client.get("kept") == b"1"


def test_what_keeps_it_from_starting_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no-such-policy.*valkey\.log"):
        EmbeddedValkey(tmp_path, eviction="no-such-policy")
    (tmp_path / "file").write_text("")
    with pytest.raises(PreconditionError, match="file"):
        EmbeddedValkey(tmp_path / "file")


def test_a_damaged_log_is_refused_and_kept(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        client = Redis.from_url(server.url)
        for i in range(100):
            client.set(f"key:{i}", "value")
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    content = bytearray(log.read_bytes())
    content[500:520] = b"\xff" * 20
    log.write_bytes(content)
    with pytest.raises(StoreError, match="ended at its start"):
        EmbeddedValkey(tmp_path)
    assert log.read_bytes() == content


def test_a_stale_socket_is_no_obstacle(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "valkey.sock"))
    with EmbeddedValkey(tmp_path) as server:
        assert Redis.from_url(server.url).ping()


def test_a_missing_server_program_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(MissingPartError, match="pip install"):
        EmbeddedValkey(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(embedded.platform, "machine", lambda: "vax")
    with pytest.raises(MissingPartError, match=r"vax.*--redis-url"):
        EmbeddedValkey(tmp_path)

"""`recsys events drain` as its user meets it: which store it takes, what it prints, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.stores.embedded import EmbeddedValkey
from recsys.stores.event_parts import EventParts
from recsys.stores.redis_store import RedisStore
from recsys.testing.store_contract import click

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def drain(tmp_path: Path) -> Run:
    """Runs `recsys events drain --out parts` in tmp_path, where nothing is said of a Redis."""
    environment = {name: value for name, value in os.environ.items() if name != "RECSYS_REDIS_URL"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.cli.main", "events", "drain", "--out", "parts", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)

    return run


async def record(url: str, count: int, namespace: str = "recsys") -> None:
    store = RedisStore(url, namespace, read_timeout=10, write_timeout=10)
    await store.record([click(1, n) for n in range(count)])
    await store.close()


def test_events_of_a_store_that_runs_and_of_one_that_does_not(drain: Run, tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path / "store") as server:
        asyncio.run(record(server.url, 5))
        done = drain("--bundles", "bundles", "--batch", "2")
        assert done.returncode == 0, done.stderr
        assert "5 events in 3 parts written to parts" in done.stdout
        assert "recsys data append DATASET --events parts" in done.stdout
        asyncio.run(record(server.url, 4))
    done = drain("--store-dir", "store")
    assert "4 events in 1 parts" in done.stdout
    with EmbeddedValkey(tmp_path / "store") as server:  # the drain has let the store go, and forgotten its events
        done = drain("--redis-url", server.url)
        assert "0 events in 0 parts" in done.stdout
        asyncio.run(record(server.url, 3, "shop-2"))
        assert "3 events in 1 parts" in drain("--redis-url", server.url, "--namespace", "shop-2").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which store? Give --bundles or --store-dir"),
        (["--store-dir", "nowhere"], "no embedded store has run there"),
        (["--store-dir", "a", "--redis-url", "redis://b"], "two stores"),
        (["--redis-url", "http://b"], "cannot be read"),
        (["--store-dir", "old", "--follow"], "drain without --follow"),
        (["--redis-url", "redis://127.0.0.1:1", "--namespace", "a b"], "namespace"),
        (["--redis-url", "redis://127.0.0.1:1", "--batch", "0"], "--batch"),
        (["--redis-url", "redis://127.0.0.1:1", "--out", "file"], "events cannot be written there"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    drain: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "old" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    done = drain(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_store_that_is_away_is_exit_code_1_and_a_folder_in_use_2(drain: Run, tmp_path: Path) -> None:
    done = drain("--redis-url", "redis://127.0.0.1:1")
    assert done.returncode == 1
    assert "is away" in done.stderr
    with EventParts(tmp_path / "parts"):
        done = drain("--redis-url", "redis://127.0.0.1:1")
    assert done.returncode == 2
    assert "another `recsys events drain` writes there" in done.stderr

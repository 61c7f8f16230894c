"""`recsys store load`, run as a user runs it, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from recsys.stores.embedded import EmbeddedValkey
from recsys.stores.redis_store import RedisStore
from recsys.testing.toy import HISTORIES, write_toy
from services.cli.main import main


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy") / "data").path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


def recsys(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


async def test_all_users_are_loaded_and_a_second_time_none(dataset: Path, server: EmbeddedValkey) -> None:
    first = recsys("store", "load", "--data", dataset, "--redis-url", server.url, "--namespace", "toy")
    assert (first.returncode, first.stderr) == (0, "")
    assert f"{len(HISTORIES)} of {len(HISTORIES)} users written to {server.url}, namespace toy" in first.stdout

    store = RedisStore(server.url, "toy", read_timeout=10)
    for user, items in HISTORIES.items():
        state = await store.read(user)
        assert state.history_ids.tolist() == items
        assert sorted(state.seen_ids.tolist()) == items
    assert (await store.read(1)).attributes == {"country": "fi", "age": 20}
    await store.close()

    again = recsys("store", "load", "--data", dataset, "--namespace", "toy", RECSYS_REDIS_URL=server.url)
    assert again.returncode == 0
    assert f"0 of {len(HISTORIES)} users written" in again.stdout


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `recsys store load` in this process: its exit code and what it said."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["recsys", "store", "load", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "500")
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, "".join(capsys.readouterr())

    return run


def test_a_users_mistakes_end_with_a_sentence(
    dataset: Path, server: EmbeddedValkey, tmp_path: Path, load: Callable[..., tuple[int, str]]
) -> None:
    code, said = load("--data", tmp_path / "none", "--redis-url", server.url)
    assert code == 2
    assert str(tmp_path / "none") in said
    code, said = load("--data", dataset, "--redis-url", "localhost:6379")
    assert code == 2
    assert "redis://host:6379/0" in said
    code, said = load("--data", dataset, "--redis-url", server.url, "--namespace", "a:b")
    assert code == 2
    assert "'a:b'" in said
    code, said = load("--data", dataset, "--redis-url", f"unix://{tmp_path}/none.sock")
    assert code == 1
    assert "none.sock" in said
    code, said = load("--data", dataset)
    assert code == 2
    assert "--redis-url" in said


def test_a_password_is_needed_and_never_printed(
    dataset: Path, server: EmbeddedValkey, load: Callable[..., tuple[int, str]]
) -> None:
    admin = Redis.from_url(server.url)
    admin.config_set("requirepass", "s3cret-word")
    path = server.url.removeprefix("unix://")
    try:
        code, said = load("--data", dataset, "--redis-url", f"unix://:wr0ng-word@{path}")
        assert code == 1
        assert "wr0ng" not in said
        code, said = load("--data", dataset, "--redis-url", server.url)
        assert code == 1
        code, said = load("--data", dataset, "--redis-url", f"unix://:s3cret-word@{path}", "--namespace", "p")
        assert code == 0
        assert f"unix://***@{path}" in said
        assert "s3cret" not in said
    finally:
        admin.config_set("requirepass", "")

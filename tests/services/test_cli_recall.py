"""`recsys recall` and `recsys recommend` against a running server."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from recsys.errors import RecsysError, UsageError
from recsys.testing.serving import RunningServer
from services.cli.main import app


def recsys(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_recommend_prints_titles_channels_and_stages(server: RunningServer) -> None:
    shown = recsys("recommend", "--server", server.address, "--history", "10", "-k", "2")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert "Brazil" in lines[1]
    assert "two_tower" in lines[1]
    assert "Heat" in lines[2]
    assert "top_k 2" in shown.stdout
    assert server.version in shown.stdout


@pytest.mark.parametrize("verb", ["recall", "recommend"])
def test_json_holds_items_with_titles_for_machines(server: RunningServer, verb: str) -> None:
    shown = recsys(verb, "--server", server.address, "--user", "1", "-k", "3", "--json")
    answer = json.loads(shown.stdout)
    assert {item["item_id"] for item in answer["items"]} <= {50, 60, 70, 80}
    assert all(item["title"] and item["channels"] for item in answer["items"])
    assert answer["bundle_version"] == server.version
    assert answer["user_state"] == "KNOWN"
    assert answer["degraded"] == []


def test_channels_and_seen_items_are_asked_for_by_flags(server: RunningServer) -> None:
    arguments = ("--server", server.address, "--user", "1", "--json")
    alone = json.loads(recsys("recall", *arguments, "--channels", "popularity", "-k", "1").stdout)
    assert [(item["title"], item["score"]) for item in alone["items"]] == [("Fargo", 3.0)]
    seen = json.loads(recsys("recall", *arguments, "--channels", "popularity", "-k", "1", "--include-seen").stdout)
    assert [(item["title"], item["score"]) for item in seen["items"]] == [("Casablanca", 4.0)]


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("-k", "0"), "k = 0", 2),
        (("--channels", "mind"), "item_knn, popularity, two_tower", 2),
        (("--history", "10,ten"), "not both", 2),
        (("--keys", "--history", "10"), "integer ids", 2),
        (("--token-file", "absent"), "--token-file", 2),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_users_mistake_is_one_sentence(
    server: RunningServer, arguments: tuple[str, ...], words: str, code: int
) -> None:
    ended = recsys("recall", "--server", server.address, *arguments)
    assert isinstance(ended.exception, RecsysError)
    assert words in str(ended.exception)
    assert ended.exception.exit_code == code


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:99999", "127.0.0.1:0", "host:port"])
def test_an_address_that_is_none_is_bad_usage(address: str) -> None:
    ended = recsys("recall", "--server", address, "--user", "1")
    assert isinstance(ended.exception, UsageError)
    assert f"--server {address}" in str(ended.exception)


def test_an_event_is_recorded_once(server: RunningServer) -> None:
    arguments = ("events", "record", "--server", server.address, "--user", "4001", "--item", "10", "--event-id", "77")
    assert recsys(*arguments).stdout == "recorded event 77\n"
    assert "duplicate" in recsys(*arguments).stdout
    shown = json.loads(recsys("recall", "--server", server.address, "--user", "4001", "-k", "1", "--json").stdout)
    assert shown["user_state"] == "KNOWN"


def test_keys_are_refused_where_ids_are_integers(server: RunningServer) -> None:
    recorded = recsys("events", "record", "--server", server.address, "--user", "ann", "--item", "10")
    recalled = recsys("recall", "--server", server.address, "--user", "ann", "-k", "1")
    for ended in (recorded, recalled):
        assert isinstance(ended.exception, RecsysError)
        assert "use user_id" in str(ended.exception)
        assert ended.exception.exit_code == 2


def test_nobody_there_is_a_failure_that_names_the_server() -> None:
    ended = recsys("recall", "--server", "127.0.0.1:1", "--user", "1")
    assert isinstance(ended.exception, RecsysError)
    assert "127.0.0.1:1" in str(ended.exception)
    assert ended.exception.exit_code == 1

"""`recsys bench serve`: the synthetic bundle, the way h2load is read, and the whole run in small."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys.bundle.bundle import Bundle
from recsys.errors import MissingPartError, OverloadError, RecsysError, UsageError
from recsys.retrieval.channel import Channel
from recsys.retrieval.interests_channel import InterestsChannel
from recsys.retrieval.vector_channel import VectorChannel
from recsys.stores.store import Event
from recsys.testing.toy import HISTORIES
from recsys.types import RaggedRows, Users
from services.cli.bench import h2load
from services.cli.bench.serve import towers_named
from services.cli.bench.servers import Usage
from services.cli.bench.synthetic import CHANNELS, SyntheticShape, Tower, write_synthetic_bundle
from services.cli.bench.traffic import CONNECTIONS, Visitor, clicks, visitors
from services.cli.main import app
from services.rpc.bundles import load


@pytest.mark.parametrize("towers", [("mean",), ("attention", "mind")], ids=str)
def test_a_synthetic_bundle_serves_and_its_users_find_items_like_their_own(
    tmp_path: Path, towers: tuple[Tower, ...]
) -> None:
    shape = SyntheticShape(items=2_000, dim=16, towers=towers)
    path, reports = write_synthetic_bundle(tmp_path / "bundles", tmp_path / "work", shape)
    assert list(reports) == [CHANNELS[tower] for tower in towers]
    bundle = load(path)
    for name, report in reports.items():
        assert report.recall_at_100 >= 0.99
        finds_items_like_their_own(bundle, bundle.channels[name])


def finds_items_like_their_own(bundle: Bundle, channel: Channel) -> None:
    (user_id, state), *_ = bundle.users
    history = RaggedRows.of([bundle.catalogue.rows_of(state.history_ids)])
    known = Users(np.array([user_id]), np.array([True]), {"country": ["1"]}, history, RaggedRows.empty(1))
    found, _ = channel.recall(known, 50).of(0)
    assert isinstance(channel, VectorChannel | InterestsChannel)
    vectors = channel.index.vectors()
    to_history = (vectors[found] @ vectors[history[0]].T).max(axis=1).mean()
    to_anything = (vectors[found] @ vectors[::40].T).max(axis=1).mean()
    assert to_history > to_anything


def test_visitors_are_users_with_histories_and_the_first_have_several_connections(toy_bundles: Path) -> None:
    people = visitors(toy_bundles)
    assert len(people) == CONNECTIONS
    assert {one.user: list(one.items) for one in people}.items() <= HISTORIES.items()
    often = Counter(one.user for one in people).most_common()
    assert often[0][1] > CONNECTIONS / len(HISTORIES)
    assert visitors(toy_bundles) == people


class Answering:
    """A server that has answered 100 Recalls more each time that it is asked, and what is recorded there."""

    address = "nowhere"

    def __init__(self) -> None:
        self.calls, self.recorded = 0, list[list[Event]]()
        self.refuses, self.enough = 1, threading.Event()

    def usage(self) -> Usage:
        self.calls += 100
        return Usage(self.calls, 0, 0.0, 0, 0)

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def record(self, events: list[Event]) -> None:
        self.refuses -= 1
        if self.refuses == 0:
            raise OverloadError("too many calls")
        self.recorded.append(events)
        if len(self.recorded) == 12:
            self.enough.set()


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    server = Answering()
    monkeypatch.setattr("services.cli.bench.traffic.Client", lambda address: server)
    monkeypatch.setattr("services.cli.bench.traffic._TURN_SECONDS", 0.001)
    return server


def test_every_so_many_recalls_somebody_clicks_an_own_item_and_nobody_twice_at_once(answering: Answering) -> None:
    """Of 10 visitors; a click every 20 Recalls, 5 a turn. The first call is refused, and made up for later."""
    people = [Visitor(user, (100 + user, 200 + user)) for user in range(10)]
    with clicks(answering, people, 20):  # type: ignore[arg-type]
        assert answering.enough.wait(10)
    recorded = answering.recorded[:12]
    assert [len(events) for events in recorded] == [10, *[5] * 11]
    assert all(len({event.user_id for event in events}) == len(events) for events in recorded)
    assert all(event.item_id % 100 == event.user_id for events in recorded for event in events)


def test_clicks_that_cannot_be_recorded_fail_the_benchmark(answering: Answering) -> None:
    answering.record = lambda events: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(ZeroDivisionError), clicks(answering, [Visitor(1, (2,))], 20):  # type: ignore[arg-type]
        time.sleep(0.1)


def test_the_hit_rate_is_the_share_of_vectors_out_of_the_cache_between_two_moments() -> None:
    before, after = Usage(100, 0, 1.0, cached=50, made=50), Usage(300, 1, 3.0, cached=200, made=100)
    used = after.since(before)
    assert (used.hit_rate, used.calls, used.errors, used.cpu_us_per_call) == (0.75, 200, 1, 10_000.0)
    assert before.since(before).hit_rate == 0


def test_a_message_is_framed_as_grpc_does() -> None:
    assert h2load.frame(b"abc") == b"\x00\x00\x00\x00\x03abc"


def test_without_h2load_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingPartError, match="nghttp2-client"):
        h2load.require()


def test_a_server_that_is_not_there_is_an_error_and_no_figure() -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed")
    with pytest.raises(RecsysError, match="h2load"):
        h2load.run("127.0.0.1:1", "/a.B/C", [b""], seconds=1)


@pytest.mark.parametrize("text", ["max", "mean,attention", "mind,mind", ""])
def test_towers_that_there_are_not_or_that_share_a_channel_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--tower {text}: must be mean or attention"):
        towers_named(text)


def test_both_towers_are_attention_and_mind() -> None:
    assert towers_named("both") == towers_named("mind, attention") == ("attention", "mind")


@pytest.mark.slow
def test_the_whole_benchmark_in_small(toy_bundles: Path, tmp_path: Path) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed")
    out = tmp_path / "figures.json"
    arguments = ["bench", "serve", "--bundles", str(toy_bundles), "--k", "3"]
    flags = ["--seconds", "1", "--runs", "1", "--workers", "1", "--work", str(tmp_path), "--out", str(out)]
    shown = CliRunner().invoke(app, [*arguments, *flags])
    assert shown.exit_code == 0, (shown.output, shown.exception)
    figures = json.loads(out.read_text())
    assert figures["errors"] == 0
    assert 0 < figures["ratio_to_echo"] < 1.5
    assert figures["recall"]["qps"] > figures["half_load"]["qps"] > 0
    assert figures["server_cpu_us_per_call"] > 0
    assert figures["channels"] == ["two_tower"]
    assert 0 < figures["hit_rate"] <= 1
    assert figures["users"] <= figures["connections"]
    assert {"parse", "engine", "write", "two_tower.search"} <= set(figures["stages_us"])

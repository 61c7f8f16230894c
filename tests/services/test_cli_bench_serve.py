"""`recsys bench serve`: the synthetic bundle, the way h2load is read, and the whole run in small."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys.bundle.bundle import Bundle
from recsys.errors import MissingPartError, OverloadError, RecsysError, UsageError
from recsys.index.config import IndexReport
from recsys.retrieval.channel import Channel
from recsys.retrieval.interests_channel import InterestsChannel
from recsys.retrieval.tree_channel import TreeChannel
from recsys.retrieval.vector_channel import VectorChannel
from recsys.stores.memory import MemoryStore
from recsys.stores.store import Event
from recsys.testing.toy import HISTORIES
from recsys.types import Floats, RaggedRows, Users
from services.cli.bench import h2load
from services.cli.bench.serve import towers_named
from services.cli.bench.servers import Usage
from services.cli.bench.stages import asked_channels, measure_stages
from services.cli.bench.synthetic import CHANNELS, Report, SyntheticShape, write_synthetic_bundle
from services.cli.bench.traffic import CONNECTIONS, Visitor, clicks, visitors
from services.cli.main import app
from services.rpc.bundles import load
from services.rpc.engine import Engine
from services.rpc.measurements import Measurements
from services.rpc.store_guard import GuardedStore


@dataclass(frozen=True, slots=True, eq=False)
class Synthetic:
    """A synthetic bundle, opened, and what each channel was measured to find."""

    bundles: Path
    bundle: Bundle
    reports: dict[str, Report]

    def somebody(self) -> Users:
        """The first user, each time as another call brings it."""
        (user_id, state), *_ = self.bundle.users
        history = RaggedRows.of([self.bundle.catalogue.rows_of(state.history_ids)])
        return Users(np.array([user_id]), np.array([True]), {"country": ["1"]}, history, RaggedRows.empty(1))


@pytest.fixture(scope="module", params=[("mean",), ("attention", "mind", "tdm")], ids=str)
def synthetic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    folder = tmp_path_factory.mktemp("synthetic")
    shape = SyntheticShape(items=2_000, dim=16, towers=request.param)
    path, reports = write_synthetic_bundle(folder / "bundles", folder / "work", shape)
    assert list(reports) == [CHANNELS[tower] for tower in shape.towers]
    return Synthetic(folder / "bundles", load(path), reports)


def test_channels_of_a_synthetic_bundle_find_what_exact_search_does(synthetic: Synthetic) -> None:
    for report in synthetic.reports.values():
        assert (report.recall_at_100 if isinstance(report, IndexReport) else report.recall[50]) >= 0.99


def test_users_of_a_synthetic_bundle_find_items_like_their_own(synthetic: Synthetic) -> None:
    history = synthetic.somebody().history[0]
    for channel in synthetic.bundle.channels.values():
        found, _ = channel.recall(synthetic.somebody(), 50).of(0)
        vectors = vectors_of_items(channel)
        to_history = (vectors[found] @ vectors[history].T).max(axis=1).mean()
        to_anything = (vectors[found] @ vectors[::40].T).max(axis=1).mean()
        assert to_history > to_anything


def test_each_channel_says_what_its_tower_and_its_search_cost(synthetic: Synthetic) -> None:
    asked = asked_channels(synthetic.bundles, [])
    assert sorted(asked) == sorted(synthetic.reports)
    stages = measure_stages(synthetic.bundles, asked, 10)
    assert {f"{name}.{part}" for name in asked for part in ("encode", "encode+tower", "search")} < set(stages)


def test_a_user_who_comes_back_costs_no_run_of_a_tower_whatever_is_searched(synthetic: Synthetic) -> None:
    bundle, counted = synthetic.bundle, Measurements()
    Engine(bundle, GuardedStore(MemoryStore(), counted), counted, cache_bytes=1_000_000)
    for name, channel in bundle.channels.items():
        first, again = (channel.recall(synthetic.somebody(), 50) for _ in range(2))
        assert again.rows.tolist() == first.rows.tolist()
        assert again.scores.tolist() == first.scores.tolist()
        assert [counted.counters["recsys_user_vectors", (name, source)] for source in ("tower", "cache")] == [1, 1]


def vectors_of_items(channel: Channel) -> Floats:
    if isinstance(channel, TreeChannel):
        tree = channel.attention.tree
        vectors: Floats = channel.attention.nodes[tree.leaves + tree.first_leaf]
        return vectors
    assert isinstance(channel, VectorChannel | InterestsChannel)
    return channel.index.vectors()


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


@pytest.mark.parametrize("text", ["max", "mean,attention", "mind,mind", "tdm,tree", ""])
def test_towers_that_there_are_not_or_that_share_a_channel_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--tower {text}: must be mean or attention"):
        towers_named(text)


def test_both_towers_are_attention_and_mind() -> None:
    assert towers_named("both") == towers_named("mind, attention") == ("attention", "mind")


def test_towers_come_in_one_order_so_that_a_bundle_is_made_once() -> None:
    assert towers_named("tdm,mind,attention") == towers_named("attention, mind, tdm") == ("attention", "mind", "tdm")
    assert towers_named("tdm") == ("tdm",)


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

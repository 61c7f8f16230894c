"""Cold items: which events are of items that training has not seen, and who finds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset, write_dataset
from recsys.data.splits import Holdout, Split, split
from recsys.evaluate.cold_items import ColdItems, cold_events, cold_items
from recsys.evaluate.results import Quiet
from recsys.retrieval.channel import Channel
from recsys.retrieval.static_channel import StaticChannel
from recsys.types import Floats

ITEMS = 130
NEW = (120, 121)


@pytest.fixture
def growing(tmp_path: Path) -> Dataset:
    """Twenty users take old items for ninety moments; in the last ones some of them take the items 120 and 121.

    User 1 takes 120 twice; 122 to 129 are never taken. Even items have a colour.
    """
    moments = [(1 + i % 20, (7 * i + i // 20) % 100, i) for i in range(180)]
    late = [(1, 120, 190), (1, 120, 191), (2, 121, 192), (3, 120, 193), (4, 5, 194), (5, 99, 195)]
    events = pl.DataFrame(moments + late, [USER_ID, ITEM_ID, TIMESTAMP_MS], orient="row")
    events = events.with_columns(pl.col(TIMESTAMP_MS) * 1_000 + 1_600_000_000_000)
    colours = ["red" if item % 2 == 0 else None for item in range(ITEMS)]
    items = pl.DataFrame({ITEM_ID: np.arange(ITEMS), "title": ["a title"] * ITEMS, "colour": colours})
    return write_dataset(tmp_path / "growing", events=events, items=items, name="growing", time="real")


@pytest.fixture
def divided(growing: Dataset) -> Split:
    return split(growing, Catalogue.from_dataset(growing), Holdout.parse("time:0.1"))


@pytest.fixture(autouse=True)
def any_number_of_events_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.evaluate.cold_items.LEAST_EVENTS", 1)


def found_by(scores: Floats, divided: Split, catalogue: Catalogue) -> ColdItems:
    channels: dict[str, Channel] = {"static": StaticChannel("static", scores)}
    return cold_items(channels, divided, catalogue, None, Quiet())


def test_cold_events_are_the_first_choices_of_items_without_a_training_event(divided: Split) -> None:
    assert divided.test is not None
    events = cold_events(divided, ITEMS)
    assert events.target.tolist() == [120, 121, 120]
    assert events.user_ids.tolist() == [1, 2, 3]
    assert events.eligible is None
    assert [events.users(m, m + 1).history[0].size for m in range(3)] == events.history_end.tolist()
    assert set(NEW).isdisjoint(divided.test.target), "the protocol does not ask for them"


def test_by_position_only_the_last_event_of_a_user_is_asked_about(growing: Dataset) -> None:
    divided = split(growing, Catalogue.from_dataset(growing), Holdout.parse("last"))
    seen = set(divided.train.rows.tolist())
    assert divided.test is not None
    last = [int(row) for row in divided.test.target if int(row) not in seen]
    assert sorted(cold_events(divided, ITEMS).target.tolist()) == sorted(last)
    assert 121 in last


def test_all_items_are_candidates_the_cold_ones_and_those_that_nobody_takes(divided: Split, growing: Dataset) -> None:
    scores = np.zeros(ITEMS, np.float32)
    scores[110:] = np.arange(20, 0, -1)  # 120 has rank 11, 121 rank 12
    found = found_by(scores, divided, Catalogue.from_dataset(growing)).channels["static"]
    assert found.metrics == {"recall@10": 0.0, "recall@50": 1.0, "recall@100": 1.0}


def test_a_model_that_knows_items_by_their_training_events_finds_none(divided: Split, growing: Dataset) -> None:
    counts = np.bincount(divided.train.rows, minlength=ITEMS).astype(np.float32)
    found = found_by(counts, divided, Catalogue.from_dataset(growing)).channels["static"]
    assert set(found.metrics.values()) == {0.0}


def test_what_is_known_of_cold_items_is_stated(divided: Split, growing: Dataset) -> None:
    found = found_by(np.zeros(ITEMS, np.float32), divided, Catalogue.from_dataset(growing))
    assert (found.events, found.users, found.items, found.candidates) == (3, 3, 2, ITEMS)
    assert found.attributes == ["colour"]
    assert found.described == 0.5
    assert found.chance["recall@50"] == pytest.approx(np.mean([50 / (ITEMS - n) for n in (10, 9, 9)]), abs=0.02)
    assert "50.0 % of them have attributes (colour)" in found.section().intro
    assert found.as_json()["channels"]["static"]["ci95"]["recall@50"] == [0.0, 0.0]


def test_too_few_are_counted_but_not_drawn(divided: Split, growing: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.evaluate.cold_items.LEAST_EVENTS", 4)
    found = found_by(np.zeros(ITEMS, np.float32), divided, Catalogue.from_dataset(growing))
    assert "Only 3 test events" in found.section().intro
    assert list(found.section().blocks) == []
    assert found.as_json()["channels"]["static"]["recall@50"] == 0.0


def test_without_cold_items_the_section_says_so(divided: Split, growing: Dataset) -> None:
    nothing_late = replace(divided, everything=divided.known)
    found = found_by(np.zeros(ITEMS, np.float32), nothing_late, Catalogue.from_dataset(growing))
    assert found.channels == {}
    assert "none to look for" in found.section().intro

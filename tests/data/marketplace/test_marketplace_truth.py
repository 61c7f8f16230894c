"""The truth opens, agrees with the log, and refuses what was altered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.appending import AppendOptions, append_to_dataset
from recsys.data.dataset import Dataset
from recsys.data.marketplace.laws import HOUR_MS, Laws
from recsys.data.marketplace.presets import laws_of
from recsys.data.marketplace.responses import Delays
from recsys.data.marketplace.simulate import simulate
from recsys.data.marketplace.truth import TRUTH, TRUTH_JSON, MarketplaceTruth
from recsys.data.marketplace.world import World
from recsys.data.readers.raw import ReaderOptions
from recsys.errors import ConfigError, DataError, UsageError

TINY = {"users": 60, "items": 100, "days": 2, "events": 4_000}


@pytest.fixture
def tiny(tmp_path: Path) -> Dataset:
    return simulate(tmp_path / "tiny", laws_of("small", **TINY))


def hash_of(path: Path, threads: int = 1, **changes: int) -> str:
    return simulate(path, laws_of("small", **{**TINY, **changes}), threads=threads).info.content_hash


def test_the_same_seed_gives_the_same_data_and_another_seed_others(tmp_path: Path) -> None:
    first = hash_of(tmp_path / "a")
    assert hash_of(tmp_path / "b") == first
    assert hash_of(tmp_path / "c", seed=1) != first


def test_data_do_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.data.marketplace.generator.USERS_A_BLOCK", 16)
    assert hash_of(tmp_path / "a", threads=3) == hash_of(tmp_path / "b", threads=1)


def test_data_do_not_depend_on_how_much_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = hash_of(tmp_path / "a")
    monkeypatch.setattr("recsys.data.marketplace.simulate._ROWS_A_BATCH", 7)
    assert hash_of(tmp_path / "b") == large


def test_events_are_those_of_the_drawn_probabilities(log: pl.DataFrame, truth: MarketplaceTruth) -> None:
    seen = log.filter(pl.col("event").cast(pl.String) != "conversion").sample(3_000, seed=1)
    users, rows, times = (seen[name].to_numpy() for name in ("user_id", "item", "timestamp_ms"))
    chances = truth.p_click(users, rows, times, seen["position"].to_numpy())
    assert chances == pytest.approx(seen["p_click"].to_numpy(), rel=1e-6)
    assert truth.p_convert(users, rows, times) == pytest.approx(seen["p_convert"].to_numpy(), rel=1e-6)
    assert (truth.p_show(users, rows, times) > 0).all()


def test_the_odds_of_the_next_click_are_p_show_times_p_click(truth: MarketplaceTruth) -> None:
    users = np.array([3, 9, 3])
    times = truth.laws.start_ms + np.array([0, 50, 51]) * HOUR_MS + 5
    odds = truth.next_click(users, times)
    assert odds.shape == (3, truth.laws.items)
    for b in range(3):
        rows = np.arange(truth.laws.items)
        who, when = np.full(len(rows), users[b]), np.full(len(rows), times[b])
        expected = truth.p_show(who, rows, when) * truth.p_click(who, rows, when)
        assert odds[b] == pytest.approx(expected, rel=1e-9)


def test_delays_are_drawn_by_their_law(laws: Laws) -> None:
    world = World.draw(laws)
    n = 40_000
    users, items = np.full(n, 3), np.full(n, 5)
    delays = Delays.of(world, users, items, np.array(60))
    drawn = delays.sample(*np.random.default_rng(0).random((2, n)))
    ranks = delays.cdf(drawn)
    assert np.abs(np.sort(ranks) - np.linspace(0, 1, n)).max() < 1.63 / np.sqrt(n) * 1.2
    assert drawn.max() <= laws.delay.window_hours
    assert delays.cdf(np.array(laws.delay.window_hours)).min() == 1.0
    assert delays.cdf(np.array(0.0)).max() == 0.0


def test_the_delay_law_depends_on_x_and_drifts(truth: MarketplaceTruth) -> None:
    prices = truth.world.items.relative_price
    cheap, dear = int(np.argmin(prices)), int(np.argmax(prices))
    start = truth.laws.start_ms
    late = start + (truth.laws.hours - 1) * HOUR_MS
    users, rows = np.array([1, 1, 1]), np.array([cheap, dear, cheap])
    within_hour = truth.delay_cdf(users, rows, np.array([start, start, late]), HOUR_MS)
    assert within_hour[0] > within_hour[1] + 0.05
    assert abs(within_hour[0] - within_hour[2]) > 0.01


def test_there_is_no_truth_beside_other_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only simulated data know their truth"):
        MarketplaceTruth.open(tmp_path)


def test_a_truth_that_was_altered_is_refused(tiny: Dataset) -> None:
    file = tiny.path / TRUTH / "items.quality.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"items\.quality\.npy is not what truth\.json says"):
        MarketplaceTruth.open(tiny.path)


@pytest.mark.parametrize("name", ["events.arrow", "interests.arrow", "tree.centre.npy"])
def test_a_truth_that_is_not_whole_is_refused(tiny: Dataset, name: str) -> None:
    file = tiny.path / TRUTH / name
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match="altered or cut"):
        MarketplaceTruth.open(tiny.path)
    file.unlink()
    with pytest.raises(DataError, match=f"it has no {name}"):
        MarketplaceTruth.open(tiny.path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}'])
def test_laws_that_cannot_be_read_are_refused(tiny: Dataset, text: str) -> None:
    (tiny.path / TRUTH / TRUTH_JSON).write_text(text)
    with pytest.raises(DataError, match=r"truth\.json"):
        MarketplaceTruth.open(tiny.path)


def test_a_table_that_the_record_does_not_name_is_still_needed(tiny: Dataset) -> None:
    file = tiny.path / TRUTH / TRUTH_JSON
    record = json.loads(file.read_text())
    del record["files"]["tree.centre.npy"]
    file.write_text(json.dumps(record))
    (tiny.path / TRUTH / "tree.centre.npy").unlink()
    with pytest.raises(DataError, match=r"tree\.centre\.npy"):
        MarketplaceTruth.open(tiny.path)


def test_users_and_times_that_never_were_are_refused(truth: MarketplaceTruth) -> None:
    there = np.array([truth.laws.start_ms])
    with pytest.raises(DataError, match="user 801 is none of the 800"):
        truth.p_click(np.array([801]), np.array([0]), there)
    with pytest.raises(DataError, match="outside the simulation"):
        truth.p_show(np.array([1]), np.array([0]), np.array([truth.laws.end_ms]))


def test_a_simulation_that_fails_leaves_what_was_there(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tiny.info.content_hash

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recsys.data.marketplace.simulate.save_tables", fail)
    with pytest.raises(DataError, match="No space left on device"):
        simulate(tiny.path, laws_of("small", **TINY, seed=5))
    assert Dataset.open(tiny.path).info.content_hash == before
    assert [path.name for path in tiny.path.parent.iterdir()] == [tiny.path.name]


def test_a_copied_dataset_keeps_its_truth(tiny: Dataset, tmp_path: Path) -> None:
    shutil.copytree(tiny.path, tmp_path / "copy")
    assert MarketplaceTruth.open(tmp_path / "copy").laws == laws_of("small", **TINY)


def test_unknown_worlds_and_impossible_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="small, million, delayed"):
        laws_of("huge")
    with pytest.raises(UsageError, match="1 days hold at most 120,000,000 events"):
        laws_of("small", days=1, events=10**12)
    with pytest.raises(ConfigError, match="days"):
        laws_of("small", days=0)


def test_a_seed_means_the_same_data_everywhere(tiny: Dataset) -> None:
    """Figures in docs/ were taken on these worlds: a change of laws or of random numbers makes other data."""
    assert tiny.info.content_hash.startswith("f9611dae82aabe0f")


def test_the_truth_stays_when_events_are_appended(tiny: Dataset, tmp_path: Path) -> None:
    later = pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp_ms": [1_800_000_000_000], "event_id": [10**9]})
    later.write_parquet(tmp_path / "later.parquet")
    columns = {name: name for name in later.columns}
    append_to_dataset(tiny.path, tmp_path / "later.parquet", None, AppendOptions(ReaderOptions(columns=columns)))
    appended = Dataset.open(tiny.path)
    assert appended.info.counts.events == tiny.info.counts.events + 1
    truth = MarketplaceTruth.open(tiny.path)
    assert appended.events().join(truth.events(), on="event_id").collect().height == tiny.info.counts.events

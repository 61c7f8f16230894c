"""What the simulated log holds is what its laws say."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.describe import describe
from recsys.data.marketplace.generator import CLICK, CONVERSION, Generator
from recsys.data.marketplace.laws import HOUR_MS, Laws
from recsys.data.marketplace.presets import PRESETS
from recsys.data.marketplace.truth import MarketplaceTruth
from recsys.data.marketplace.world import World


def of_kind(log: pl.DataFrame, kind: str) -> pl.DataFrame:
    return log.filter(pl.col("event").cast(pl.String) == kind)


def chi_square(found: np.ndarray, expected: np.ndarray) -> float:
    """Pearson's statistic, divided by its degrees of freedom: about 1 when the counts are drawn as expected."""
    return float(((found - expected) ** 2 / expected).sum() / (len(found) - 1))


def test_event_ids_count_the_events_in_the_order_of_time(log: pl.DataFrame) -> None:
    assert log["event_id"].to_list() == list(range(log.height))
    assert log["timestamp_ms"].is_sorted()


def test_the_log_is_about_as_long_as_asked(market: Dataset, laws: Laws) -> None:
    assert market.info.counts.events == pytest.approx(laws.events, rel=0.03)
    assert market.info.time == "real"


def test_clicks_by_position_follow_the_law_of_examination(log: pl.DataFrame, laws: Laws) -> None:
    places = np.arange(1, laws.policy.slate + 1)
    clicks = np.bincount(of_kind(log, "click")["position"].to_numpy(), minlength=len(places) + 1)[1:]
    shares = places**-laws.click.eta
    assert chi_square(clicks, shares / shares.sum() * clicks.sum()) < 2.5
    flat = np.full(len(places), clicks.sum() / len(places))
    assert chi_square(clicks, flat) > 50


def test_every_place_is_shown_equally_often(log: pl.DataFrame, laws: Laws) -> None:
    shown = np.bincount(of_kind(log, "impression")["position"].to_numpy())[1:]
    assert len(set(shown.tolist())) == 1
    assert len(shown) == laws.policy.slate


def test_shares_of_clicks_match_their_probabilities_in_every_decile(log: pl.DataFrame) -> None:
    chances = of_kind(log, "impression")["p_click"].cast(pl.Float64).sort().to_numpy()
    edges = chances[np.arange(10) * len(chances) // 10]
    clicked = of_kind(log, "click")["p_click"].cast(pl.Float64).to_numpy()
    found = np.bincount(np.searchsorted(edges, clicked, side="right") - 1, minlength=10)
    decile = np.searchsorted(edges, chances, side="right") - 1
    expected = np.bincount(decile, chances)
    spread = np.sqrt(np.bincount(decile, chances * (1 - chances)))
    assert (np.abs(found - expected) < 4 * spread).all()
    assert expected[9] > 20 * expected[0]


def test_shares_of_converting_clicks_match_their_probabilities_in_every_decile(log: pl.DataFrame) -> None:
    clicks = of_kind(log, "click").sort("p_convert", "event_id").with_row_index("rank")
    for part in np.array_split(np.arange(clicks.height), 10):
        chances = clicks["p_convert"].to_numpy()[part].astype(np.float64)
        converted = np.isfinite(clicks["delay_hours"].to_numpy()[part]).sum()
        assert abs(converted - chances.sum()) < 4 * np.sqrt((chances * (1 - chances)).sum())


def test_a_conversion_comes_after_its_click_within_the_window_with_a_value(log: pl.DataFrame, laws: Laws) -> None:
    clicks = of_kind(log, "click").select("event_id", "user_id", "item_id", pl.col("timestamp_ms").alias("clicked_ms"))
    conversions = of_kind(log, "conversion")
    joined = conversions.join(clicks, left_on="click_id", right_on="event_id", suffix="_of_click")
    assert joined.height == conversions.height > 100
    assert joined["click_id"].n_unique() == joined.height
    assert (joined["user_id"] == joined["user_id_of_click"]).all()
    assert (joined["item_id"] == joined["item_id_of_click"]).all()
    waited = joined["timestamp_ms"] - joined["clicked_ms"]
    assert waited.min() > 0
    assert waited.max() <= laws.delay.window_hours * HOUR_MS
    assert joined["value"].min() > 0


def test_clicks_name_themselves_and_impressions_name_no_click(log: pl.DataFrame) -> None:
    clicks = of_kind(log, "click")
    assert (clicks["click_id"] == clicks["event_id"]).all()
    assert of_kind(log, "impression")["click_id"].null_count() == of_kind(log, "impression").height
    assert of_kind(log, "click")["value"].null_count() == clicks.height


def test_all_conversions_that_are_due_before_the_end_are_in_the_log(log: pl.DataFrame, laws: Laws) -> None:
    clicks = of_kind(log, "click").filter(pl.col("delay_hours").is_not_nan())
    wait = (clicks["delay_hours"].cast(pl.Float64) * HOUR_MS).ceil().clip(1).cast(pl.Int64)
    due = clicks.filter(clicks["timestamp_ms"] + wait < laws.end_ms)
    assert set(of_kind(log, "conversion")["click_id"]) == set(due["event_id"])
    assert due.height < clicks.height


def test_conversions_of_clicks_of_earlier_hours_arrive(log: pl.DataFrame) -> None:
    clicked = of_kind(log, "click").select("event_id", pl.col("hour").alias("clicked"))
    conversions = of_kind(log, "conversion").join(clicked, left_on="click_id", right_on="event_id")
    hours = conversions["hour"] - conversions["clicked"]
    assert (hours == 0).any()
    assert (hours > 24).any()


def test_items_are_shown_only_while_they_are_there(log: pl.DataFrame, truth: MarketplaceTruth, market: Dataset) -> None:
    seen = log.filter(pl.col("event").cast(pl.String) != "conversion")
    items, rows, hours = truth.world.items, seen["item"].to_numpy(), seen["hour"].to_numpy()
    assert (items.born[rows] <= hours).all()
    assert (hours < items.gone[rows]).all()
    created = market.items()["created_ms"].to_numpy()
    assert (created[rows] <= seen["timestamp_ms"].to_numpy()).all()
    assert (items.born > 0).any()
    assert (items.gone < truth.laws.hours).any()


def test_half_of_the_delayed_conversions_come_within_a_day_and_a_third_within_the_hour(delayed: Laws) -> None:
    clicks = np.concatenate([e[e["kind"] == CLICK] for e in Generator(World.draw(delayed)).hours()])
    delays = clicks["delay_hours"][~np.isnan(clicks["delay_hours"])]
    assert (delays <= 1).mean() == pytest.approx(0.35, abs=0.025)
    assert (delays <= 24).mean() == pytest.approx(0.5, abs=0.025)
    assert (delays > 14 * 24).mean() == pytest.approx(0.13, abs=0.025)
    assert delays.max() <= 30 * 24


def test_conversions_wait_in_the_buffer_and_leave_it(delayed: Laws) -> None:
    generator = Generator(World.draw(delayed.model_copy(update={"days": 3, "events": 20_000})))
    arrived = sum(int((events["kind"] == CONVERSION).sum()) for events in generator.hours())
    assert arrived > 0
    assert len(generator.pending) > 0
    assert generator.pending["timestamp_ms"].min() >= delayed.start_ms + 3 * 24 * HOUR_MS


def test_a_simulated_dataset_describes_itself(market: Dataset) -> None:
    said = describe(market)
    assert said.info.counts.by_type["impression"] > said.info.counts.by_type["click"] > 0
    assert {column.name for column in said.items} == {
        "title", "category", "subcategory", "brand", "price", "bid", "created_ms",
    }  # fmt: skip
    assert said.first is not None
    assert said.first.startswith("2024-01-01")


def test_shares_of_a_policy_add_up_to_one() -> None:
    with pytest.raises(ValueError, match="add up to"):
        PRESETS["small"].policy.model_validate({"uniform": 0.5})

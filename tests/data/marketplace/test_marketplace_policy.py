"""Who is shown what, and what users want."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsys.data.marketplace.interests import choose_interest, interests_at
from recsys.data.marketplace.laws import HOUR_MS, Laws
from recsys.data.marketplace.policy import LiveCatalogue
from recsys.data.marketplace.presets import laws_of
from recsys.data.marketplace.streams import Stream, generator, uniform
from recsys.data.marketplace.truth import MarketplaceTruth
from recsys.data.marketplace.world import World


@pytest.fixture(scope="module")
def world(laws: Laws) -> World:
    return World.draw(laws)


@pytest.mark.parametrize("hour", [0, 40, 191])
def test_what_a_user_may_be_shown_adds_up_to_one_and_is_there(world: World, hour: int) -> None:
    shown = LiveCatalogue(world, hour)
    chances = shown.p_show(interests_at(world, np.arange(50), hour), np.arange(world.laws.items)[None])
    assert chances.sum(axis=1) == pytest.approx(np.ones(50), abs=1e-12)
    assert (chances[:, ~shown.live] == 0).all()
    assert (chances[:, shown.live] > 0).all()


def test_a_cluster_without_live_items_is_replaced_by_what_is_popular(world: World) -> None:
    wanted = interests_at(world, np.arange(1), 0)
    gone = world.items.gone.copy()
    gone[world.items.cluster == wanted.cluster[0, wanted.active[0]]] = 0
    items = type(world.items)(**{name: getattr(world.items, name) for name in world.items.__slots__} | {"gone": gone})
    shown = LiveCatalogue(World(world.laws, world.tree, items, world.population), 0)
    rows = np.arange(world.laws.items)[None]
    assert shown.p_show(wanted, rows).sum() == pytest.approx(1.0)
    drawn = shown.draw(wanted, np.random.default_rng(0).random((2, 1, 5_000)))
    assert shown.live[drawn].all()


def test_slates_are_drawn_by_p_show(world: World) -> None:
    hour, places = 30, 200_000
    shown, wanted = LiveCatalogue(world, hour), interests_at(world, np.arange(1), hour)
    drawn = shown.draw(wanted, np.random.default_rng(0).random((2, 1, places)))
    found = np.bincount(drawn.ravel(), minlength=world.laws.items)
    expected = shown.p_show(wanted, np.arange(world.laws.items)[None])[0] * places
    there = expected > 5
    assert found[expected == 0].sum() == 0
    statistic = ((found - expected)[there] ** 2 / expected[there]).sum() / (there.sum() - 1)
    assert 0.6 < statistic < 1.5


def test_items_are_shown_in_the_log_as_often_as_p_show_says(log: pl.DataFrame, truth: MarketplaceTruth) -> None:
    seen = log.filter(pl.col("event").cast(pl.String) == "impression").filter(pl.col("hour") % 24 == 12)
    hours, users = seen["hour"].to_numpy(), seen["user_id"].to_numpy() - 1
    expected, variance = np.zeros(truth.laws.items), np.zeros(truth.laws.items)
    for hour in np.unique(hours):
        who = users[hours == hour]
        chances = LiveCatalogue(truth.world, int(hour)).p_show(
            interests_at(truth.world, who, hour), np.arange(truth.laws.items)[None]
        )
        expected += chances.sum(axis=0)
        variance += (chances * (1 - chances)).sum(axis=0)
    found = np.bincount(seen["item"].to_numpy(), minlength=truth.laws.items)
    often = variance > 3
    assert found[expected == 0].sum() == 0
    assert ((found - expected)[often] ** 2 / variance[often]).mean() == pytest.approx(1.0, abs=0.4)


def test_interests_are_replaced_about_as_often_as_the_law_says(world: World) -> None:
    law = world.laws.interests
    hours = 24 * 400
    first, last = (interests_at(world, np.arange(800), hour) for hour in (0, 24))
    same = first.taste == last.taste
    lives = 24.0 * law.life_days
    assert np.mean(~same) == pytest.approx(24 / lives, rel=0.5)
    taste = np.stack([interests_at(world, np.arange(60), h).taste for h in range(0, hours, 24)])
    assert np.mean(np.diff(taste, axis=0) != 0) == pytest.approx(1 / law.life_days, rel=0.15)


def test_the_active_interest_is_sticky_and_drawn_by_weight(world: World) -> None:
    wanted = [interests_at(world, np.arange(800), hour) for hour in (0, 1, 24 * 60)]
    assert np.mean(wanted[0].active == wanted[1].active) > 0.95
    several = world.population.interests >= 3
    assert np.mean(wanted[0].active[several] == wanted[2].active[several]) < 0.75
    expected = wanted[2].weight.sum(axis=0)
    found = np.bincount(wanted[2].active, minlength=5)
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max())


def test_absent_interests_have_no_weight_and_are_never_active(world: World) -> None:
    wanted = interests_at(world, np.arange(800), 7)
    assert ((wanted.weight > 0).sum(axis=1) == world.population.interests).all()
    assert wanted.weight.sum(axis=1) == pytest.approx(np.ones(800))
    assert (wanted.active < world.population.interests).all()


def test_the_age_band_tells_of_the_categories_of_interests(world: World) -> None:
    wanted, tree = interests_at(world, np.arange(800), 0), world.tree
    category = tree.category[wanted.cluster[:, 0]]
    odds = np.exp(tree.age_tilt[world.population.age, category]).mean()
    assert odds > np.exp(tree.age_tilt).mean()


def test_an_edge_belongs_to_the_next_interest() -> None:
    weight = np.array([[0.25, 0.75, 0.0]])
    for drawn, expected in ((0.0, 0), (0.249, 0), (0.25, 1), (0.999, 1)):
        assert choose_interest(weight, np.array([drawn])).tolist() == [expected]


def test_segments_say_what_interests_at_any_hour_were(truth: MarketplaceTruth) -> None:
    segments = truth.interest_segments().collect()
    rng = np.random.default_rng(3)
    users = rng.integers(1, truth.laws.users + 1, 300)
    times = truth.laws.start_ms + rng.integers(0, truth.laws.hours, 300) * HOUR_MS
    wanted = truth.interests(users, times)
    for b, (user, time) in enumerate(zip(users.tolist(), times.tolist(), strict=True)):
        there = segments.filter(
            (pl.col("user_id") == user) & (pl.col("start_ms") <= time) & (time < pl.col("end_ms"))
        ).sort("slot")
        count = truth.world.population.interests[user - 1]
        assert there["slot"].to_list() == list(range(count))
        assert there["cluster"].to_list() == wanted.cluster[b, :count].tolist()
        assert there["taste"].to_list() == wanted.taste[b, :count].tolist()


def test_numbers_by_address_are_uniform_and_do_not_depend_on_company() -> None:
    users, hours = np.arange(200)[:, None], np.arange(300)[None, :]
    drawn = uniform(7, Stream.ACTIVE_CHOICE, users, hours)
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert ((counts - drawn.size / 20) ** 2 / (drawn.size / 20)).sum() < 45
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.02
    alone = uniform(7, Stream.ACTIVE_CHOICE, np.array([5]), np.array([17]))
    assert alone[0] == drawn[5, 17]
    assert uniform(8, Stream.ACTIVE_CHOICE, np.array([5]), np.array([17]))[0] != alone[0]


def test_generators_of_neighbouring_addresses_share_nothing() -> None:
    streams = [generator(1, Stream.SESSIONS, block, hour).random(1_000) for block in (0, 1) for hour in (0, 1)]
    assert len(np.unique(np.concatenate(streams))) == 4_000


def test_worlds_may_be_named_by_their_preset() -> None:
    assert laws_of("million").items == 1_000_000

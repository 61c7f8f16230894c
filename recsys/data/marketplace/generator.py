"""The log, hour by hour: sessions, slates, clicks and the conversions that earlier clicks still owe.

Hour by hour and block of users by block of users, each from random numbers of its own: what is drawn does not depend
on how many blocks are drawn at once or on what else was simulated. Only conversions outlive their hour; they wait in
a buffer until it is their time.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.columns import EventType
from recsys.data.marketplace.interests import interests_at
from recsys.data.marketplace.laws import HOUR_MS
from recsys.data.marketplace.policy import LiveCatalogue, Shelf
from recsys.data.marketplace.responses import Delays, affinity, examination, p_convert, p_relevant
from recsys.data.marketplace.streams import Stream, generator
from recsys.data.marketplace.world import World

USERS_A_BLOCK: Final = 1 << 16
"""Users that share random numbers: part of what a seed means."""
KINDS: Final = tuple(EventType)
IMPRESSION, CLICK, CONVERSION = range(len(KINDS))
NONE: Final = -1
"""No click yet."""

PLACE_MS: Final = 4_000
"""From one place of a slate to the next; the click on a place comes before the next one is seen."""
_JITTER_MS: Final = 1_000
_FASTEST_CLICK_MS, _SLOWEST_CLICK_MS = 500, 3_000

EVENT: Final = np.dtype(
    [
        ("timestamp_ms", np.int64),
        ("click_id", np.int64),
        ("user", np.int32),
        ("item", np.int32),
        ("value", np.float32),
        ("p_click", np.float32),
        ("p_convert", np.float32),
        ("fast_share", np.float32),
        ("scale_hours", np.float32),
        ("delay_hours", np.float32),
        ("kind", np.uint8),
        ("position", np.uint8),
    ]
)
"""One event and its truth: rows of user and item, probabilities at the impression, the delay's law, and of a click
the delay that it will have (NaN = it never converts). Where a field means nothing it is NaN or NONE."""

Events = NDArray[Any]
"""(n,) of dtype EVENT."""


class Generator:
    """Yields the events of every hour, in order; event ids count them from 0.

    Attributes:
        pending: conversions that are yet to come.
    """

    def __init__(self, world: World, threads: int = 1) -> None:
        self._world, self._threads = world, threads
        self._shelf = Shelf(world)
        self._next_id = 0
        self.pending: Events = np.empty(0, EVENT)

    def hours(self) -> Iterator[Events]:
        """The events of each hour of the simulation, sorted by time; together they are the log."""
        blocks = range(-(-self._world.laws.users // USERS_A_BLOCK))
        with ThreadPoolExecutor(self._threads) as pool:
            for hour in range(self._world.laws.hours):
                shown = LiveCatalogue(self._world, hour, self._shelf)
                yield self._close(hour, list(pool.map(partial(draw_block, self._world, shown, hour), blocks)))

    def _close(self, hour: int, blocks: list[tuple[Events, Events]]) -> Events:
        """Puts an hour in order: what its sessions left and what is due; what is due later waits."""
        drawn = np.concatenate([events for events, _ in blocks])
        born, waiting = _conversions_of(blocks), self.pending
        end = self._world.laws.start_ms + (hour + 1) * HOUR_MS
        born_now, due = born["timestamp_ms"] < end, waiting["timestamp_ms"] < end
        events = np.concatenate([drawn, born[born_now], waiting[due]])
        order = np.argsort(events["timestamp_ms"], kind="stable")
        ids = np.empty(len(order), np.int64)
        ids[order] = np.arange(self._next_id, self._next_id + len(order))
        clicks = np.flatnonzero(drawn["kind"] == CLICK)
        events["click_id"][clicks] = ids[clicks]
        born["click_id"] = ids[born["click_id"]]
        events["click_id"][len(drawn) : len(drawn) + np.count_nonzero(born_now)] = born["click_id"][born_now]
        self.pending = np.concatenate([waiting[~due], born[~born_now]])
        self._next_id += len(order)
        return events[order]


def draw_block(world: World, shown: LiveCatalogue, hour: int, block: int) -> tuple[Events, Events]:
    """What the users of a block do in an hour.

    Args:
        world: whose laws hold.
        shown: its items at that hour.
        hour: of the simulation.
        block: number of the block of users.

    Returns:
        Impressions, then clicks; and the conversions that come of these, whose `click_id` is the place of their
        click among the former.
    """
    rng = generator(world.laws.seed, Stream.SESSIONS, block, hour)
    users, starts = _sessions(world, rng, hour, block)
    seen = _impressions(world, rng, shown, hour, users, starts)
    clicks = _clicks(world, rng, hour, seen[rng.random(len(seen)) < seen["p_click"]])
    return np.concatenate([seen, clicks]), _conversions(clicks, len(seen))


def _sessions(
    world: World, rng: np.random.Generator, hour: int, block: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and starts of the sessions of a block in an hour; every session ends within the hour."""
    laws, first = world.laws, block * USERS_A_BLOCK
    edges = np.cumsum(world.population.activity[first : first + USERS_A_BLOCK])
    wave = 1.0 + laws.daily_wave * np.sin(2.0 * np.pi * (hour - 13) / 24.0)
    count = rng.poisson(laws.sessions_an_hour * wave * edges[-1] / laws.users)
    users = np.minimum(edges.searchsorted(rng.random(count) * edges[-1], side="right"), len(edges) - 1)
    span = HOUR_MS - laws.policy.slate * PLACE_MS - _SLOWEST_CLICK_MS
    starts = laws.start_ms + hour * HOUR_MS + (rng.random(count) * span).astype(np.int64)
    return first + users, starts


def _impressions(
    world: World,
    rng: np.random.Generator,
    shown: LiveCatalogue,
    hour: int,
    users: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> Events:
    """What sessions of users, which start at some times of an hour, are shown: a slate each, place after place."""
    count, positions = len(users), np.arange(1, world.laws.policy.slate + 1)
    interests = interests_at(world, users, hour)
    rows = shown.draw(interests, rng.random((2, count, len(positions))))
    products = world.items.latent[rows] @ interests.vectors(world).transpose(0, 2, 1)
    matched, now = affinity(world, interests, products), np.array(hour)
    seen = np.zeros((count, len(positions)), EVENT)
    seen["timestamp_ms"] = starts[:, None] + (positions - 1) * PLACE_MS
    seen["timestamp_ms"] += (rng.random(seen.shape) * _JITTER_MS).astype(np.int64)
    seen["user"], seen["item"], seen["position"] = users[:, None], rows, positions
    seen["p_click"] = examination(world, positions) * p_relevant(world, users[:, None], rows, now, matched)
    seen["p_convert"] = p_convert(world, users[:, None], rows, now, matched)
    for name in ("value", "fast_share", "scale_hours", "delay_hours"):
        seen[name] = np.nan
    seen["kind"], seen["click_id"] = IMPRESSION, NONE
    return seen.ravel()


def _clicks(world: World, rng: np.random.Generator, hour: int, seen: Events) -> Events:
    """The clicks on impressions that got one, each with the delay of its conversion."""
    clicks, count = seen.copy(), len(seen)
    clicks["kind"] = CLICK
    think = _FASTEST_CLICK_MS + rng.random(count) * (_SLOWEST_CLICK_MS - _FASTEST_CLICK_MS)
    clicks["timestamp_ms"] += think.astype(np.int64)
    delays = Delays.of(world, clicks["user"], clicks["item"], np.array(hour))
    clicks["fast_share"], clicks["scale_hours"] = delays.fast_share, delays.scale_hours
    drawn = rng.random((4, count))
    late = delays.sample(drawn[1], drawn[2])
    clicks["delay_hours"] = np.where(drawn[0] < clicks["p_convert"], late, np.nan)
    quantity = 1 + (drawn[3] > 0.8) + (drawn[3] > 0.95)
    clicks["value"] = world.items.price[clicks["item"]] * quantity  # of the conversion, should there be one
    return clicks


def _conversions(clicks: Events, before: int) -> Events:
    """The conversions of clicks, of which the first stands at place `before` of its block."""
    bought = np.flatnonzero(~np.isnan(clicks["delay_hours"]))
    conversions = clicks[bought]
    conversions["kind"], conversions["click_id"] = CONVERSION, before + bought
    wait = np.ceil(conversions["delay_hours"].astype(np.float64) * HOUR_MS)
    conversions["timestamp_ms"] += np.maximum(wait, 1.0).astype(np.int64)
    return conversions


def _conversions_of(blocks: list[tuple[Events, Events]]) -> Events:
    """The conversions of all blocks, their clicks counted through all events of the hour."""
    before, parts = 0, []
    for events, conversions in blocks:
        conversions["click_id"] += before
        before += len(events)
        parts.append(conversions)
    return np.concatenate(parts)

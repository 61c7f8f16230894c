"""What users want at an hour: a closed form of (seed, user, hour), so that no state is carried along."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import USER_ID
from recsys.data.marketplace.laws import HOUR_MS, MOST_INTERESTS
from recsys.data.marketplace.streams import Stream, uniform
from recsys.data.marketplace.tables import Doubles, Integers
from recsys.data.marketplace.world import World

_LENGTH: Final = -3
"""Addresses beside the numbers of generations, which start at −1."""
_PHASE: Final = -2


@dataclass(frozen=True, slots=True, eq=False)
class Interests:
    """The interests of B users at an hour, K = MOST_INTERESTS places each.

    Attributes:
        cluster, taste: (B, K) what each is about.
        weight: (B, K) adds up to 1 over a user; 0 where the user has no such interest.
        active: (B,) place of the active one.
    """

    cluster: Integers
    taste: Integers
    weight: Doubles
    active: Integers

    def vectors(self, world: World) -> Doubles:
        """(B, K, d) what an item's latent vector is multiplied with."""
        spread = world.laws.interests.taste_spread
        return world.tree.centre[self.cluster] + spread * world.tree.tastes[self.taste]

    @property
    def is_active(self) -> NDArray[np.bool_]:
        """(B, K) whether the place is the active one."""
        active: NDArray[np.bool_] = self.active[:, None] == np.arange(MOST_INTERESTS)
        return active


def interests_at(world: World, users: NDArray[Any], hours: NDArray[Any] | int) -> Interests:
    """The interests of users (B,) at hours (B,) of the simulation."""
    seed, law = world.laws.seed, world.laws.interests
    who = np.asarray(users, np.int64)[:, None]
    place = np.arange(MOST_INTERESTS)[None, :]
    when = np.broadcast_to(np.asarray(hours, np.int64), len(who))[:, None]
    kind = _generation(seed, Stream.INTEREST_LIFE, (who, place), when, 24.0 * law.life_days)
    cluster, taste = _what(world, who, place, kind)
    standing = law.weight_spread * (uniform(seed, Stream.INTEREST_WEIGHT, who, place, kind) - 0.5)
    phase = uniform(seed, Stream.INTEREST_WAVE, who, place)
    standing = standing + law.wave * np.sin(2.0 * np.pi * (when / (24.0 * law.wave_days) + phase))
    weight = np.where(place < world.population.interests[who], np.exp(standing), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    choice = _generation(seed, Stream.ACTIVE_LIFE, (who,), when, 24.0 * law.active_days)
    drawn = uniform(seed, Stream.ACTIVE_CHOICE, who, choice)
    return Interests(cluster, taste, weight, choose_interest(weight, drawn[:, 0]))


def choose_interest(weight: Doubles, drawn: Doubles) -> Integers:
    """(B,) the place that a number in [0, 1) points to when each owns its weight."""
    edges = np.cumsum(weight, axis=1)
    chosen = (drawn[:, None] * edges[:, -1:] >= edges).sum(axis=1)
    places: Integers = np.minimum(chosen, (weight > 0).sum(axis=1) - 1).astype(np.int32)
    return places


def interest_segments(world: World, users_a_batch: int = 1 << 16) -> Iterator[pl.DataFrame]:
    """When every user had which interests: user_id, slot, start_ms, end_ms, cluster, taste, a batch of users a frame.

    The end is the first instant that does not belong to a segment.
    """
    for first in range(0, world.laws.users, users_a_batch):
        yield _segments(world, np.arange(first, min(first + users_a_batch, world.laws.users)))


def _segments(world: World, users: NDArray[np.int64]) -> pl.DataFrame:
    seed, hours = world.laws.seed, world.laws.hours
    mean = 24.0 * world.laws.interests.life_days
    user, slot = (part.ravel() for part in np.meshgrid(users, np.arange(MOST_INTERESTS), indexing="ij"))
    there = slot < world.population.interests[user]
    user, slot = user[there], slot[there]
    length, phase = _rhythm(seed, Stream.INTEREST_LIFE, (user, slot), mean)
    kinds = np.arange(-1, int(hours / (0.5 * mean)) + 2)[None, :]
    edge = kinds + uniform(seed, Stream.INTEREST_LIFE, user[:, None], slot[:, None], kinds) - phase[:, None]
    start = np.clip(np.ceil(edge * length[:, None]), 0, hours).astype(np.int64)
    end = np.append(start[:, 1:], np.full((len(start), 1), hours), axis=1)
    rows, columns = np.nonzero(end > start)
    of, kind = user[rows], kinds[0, columns]
    cluster, taste = _what(world, of, slot[rows], kind)
    return pl.DataFrame(
        {
            USER_ID: of + 1,
            "slot": slot[rows].astype(np.int8),
            "start_ms": world.laws.start_ms + start[rows, columns] * HOUR_MS,
            "end_ms": world.laws.start_ms + end[rows, columns] * HOUR_MS,
            "cluster": cluster,
            "taste": taste,
        }
    )


def _what(
    world: World, user: NDArray[Any], place: NDArray[Any], generation: NDArray[np.int64]
) -> tuple[Integers, Integers]:
    """Cluster and taste of the `generation`-th interest that a user has at a place."""
    seed, tree = world.laws.seed, world.tree
    edges, clusters, age = world.interest_edges, len(tree.category), world.population.age[user]
    drawn = uniform(seed, Stream.INTEREST_CLUSTER, user, place, generation)
    cluster = np.minimum(edges.searchsorted(age + drawn, side="right") - age * clusters, clusters - 1)
    taste = uniform(seed, Stream.INTEREST_TASTE, user, place, generation) * len(tree.tastes)
    return cluster.astype(np.int32), taste.astype(np.int32)


def _generation(
    seed: int, stream: Stream, owner: tuple[NDArray[Any], ...], hour: NDArray[np.int64], mean: float
) -> NDArray[np.int64]:
    """How often what `owner` has was replaced before an hour, from −1 on.

    Time is divided into cells of the owner's own length, and in each it is replaced once, at a random place: lives
    are between 0 and 2 cells long, `mean` hours on average, and the generation of any hour is known without its past.
    """
    length, phase = _rhythm(seed, stream, owner, mean)
    at = hour / length + phase
    cell = np.floor(at).astype(np.int64)
    return cell - (at - cell < uniform(seed, stream, *owner, cell))


def _rhythm(seed: int, stream: Stream, owner: tuple[NDArray[Any], ...], mean: float) -> tuple[Doubles, Doubles]:
    """Length of an owner's cells in hours, and where in a cell the simulation starts, as a share of it."""
    length = mean * (0.5 + uniform(seed, stream, *owner, _LENGTH))
    return length, uniform(seed, stream, *owner, _PHASE)

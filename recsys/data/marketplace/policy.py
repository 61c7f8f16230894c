"""Who is shown what: the logging policy, a mixture whose probabilities are known in closed form."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.data.marketplace.interests import Interests, choose_interest
from recsys.data.marketplace.tables import Doubles
from recsys.data.marketplace.world import World


class Shelf:
    """The items of a world in the order of their clusters, with their exposure: what does not change over time."""

    def __init__(self, world: World) -> None:
        cluster = world.items.cluster
        self.order = np.argsort(cluster, kind="stable")
        self.popularity = world.items.popularity[self.order]
        self.born, self.gone = world.items.born[self.order], world.items.gone[self.order]
        self.edges = np.searchsorted(cluster[self.order], np.arange(len(world.tree.category) + 1))


class LiveCatalogue:
    """The items that are there at one hour, and how they are shown.

    Attributes:
        live: (N,) whether the item is there.
        fresh: (N,) whether it is there since less than `fresh_hours`.
    """

    def __init__(self, world: World, hour: int, shelf: Shelf | None = None) -> None:
        self._world, self._law = world, world.laws.policy
        self._shelf = shelf or Shelf(world)
        there = (self._shelf.born <= hour) & (hour < self._shelf.gone)
        young = there & (hour - self._shelf.born < self._law.fresh_hours)
        self._live_rows, self._fresh_rows = self._shelf.order[there], self._shelf.order[young]
        self._mass = np.append(0.0, np.cumsum(np.where(there, self._shelf.popularity, 0.0)))
        self._cluster_start = self._mass[self._shelf.edges[:-1]]
        self._cluster_mass = self._mass[self._shelf.edges[1:]] - self._cluster_start

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """(N,) whether the item is there."""
        return _marked(self._live_rows, len(self._shelf.order))

    @cached_property
    def fresh(self) -> NDArray[np.bool_]:
        """(N,) whether it is there since less than `fresh_hours`."""
        return _marked(self._fresh_rows, len(self._shelf.order))

    def p_show(self, interests: Interests, rows: NDArray[Any]) -> Doubles:
        """Probability that a place of a slate shows an item, exact.

        Args:
            interests: of B users at this hour.
            rows: (B, n) or (1, n) rows of items.

        Returns:
            (B, n); over all items a user's probabilities add up to 1.
        """
        items, law = self._world.items, self._law
        uniform, fresh = self._explored()
        aimed = law.any * interests.weight + law.active * interests.is_active
        mass = self._cluster_mass[interests.cluster]
        popular = law.popular + np.where(mass > 0, 0.0, aimed).sum(axis=1, keepdims=True)
        density = aimed / np.where(mass > 0, mass, np.inf)
        cluster = items.cluster[rows]
        by_weight = popular / self._mass[-1]
        for place in range(density.shape[1]):
            by_weight = by_weight + np.where(interests.cluster[:, place, None] == cluster, density[:, place, None], 0.0)
        flat = uniform + fresh * self.fresh[rows]
        shown: Doubles = np.where(self.live[rows], flat + items.popularity[rows] * by_weight, 0.0)
        return shown

    def draw(self, interests: Interests, drawn: Doubles) -> NDArray[np.int64]:
        """Slates: rows of items drawn by `p_show`, every place on its own.

        Args:
            interests: of B users at this hour.
            drawn: (2, B, places) numbers in [0, 1).

        Returns:
            (B, places) rows.
        """
        law = self._law
        part, within = drawn
        uniform_to = law.uniform
        fresh_to = uniform_to + law.fresh
        popular_to = fresh_to + law.popular
        active_to = popular_to + law.active
        slot = np.where(part < active_to, interests.active[:, None], self._any_slot(interests, part, active_to))
        cluster = np.take_along_axis(interests.cluster, slot, axis=1)
        mass = self._cluster_mass[cluster]
        popular = (part < popular_to) | (mass <= 0)
        at = np.where(popular, within * self._mass[-1], self._cluster_start[cluster] + within * mass)
        place = np.minimum(self._mass.searchsorted(at, side="right") - 1, len(self._shelf.order) - 1)
        rows = self._shelf.order[place]
        rows = np.where(part < fresh_to, _pick(self._fresh_rows, self._live_rows, within), rows)
        return np.where(part < uniform_to, _pick(self._live_rows, self._live_rows, within), rows)

    def _any_slot(self, interests: Interests, part: Doubles, start: float) -> NDArray[np.int32]:
        """(B, places) an interest by weight, from what is left of the number that chose the part of the mixture."""
        places = part.shape[1]
        rest = np.clip((part - start) / (1.0 - start), 0.0, 1.0) if start < 1.0 else np.zeros_like(part)
        return choose_interest(np.repeat(interests.weight, places, axis=0), rest.ravel()).reshape(part.shape)

    def _explored(self) -> tuple[float, float]:
        """Probability of each live item by exploration, and what a fresh one has on top."""
        law, live, fresh = self._law, len(self._live_rows), len(self._fresh_rows)
        if not fresh:
            return (law.uniform + law.fresh) / live, 0.0
        return law.uniform / live, law.fresh / fresh


def _pick(rows: NDArray[np.int64], otherwise: NDArray[np.int64], within: Doubles) -> NDArray[np.int64]:
    """One of the rows for every number in [0, 1); of the others when there is none."""
    chosen = rows if len(rows) else otherwise
    return chosen[np.minimum((within * len(chosen)).astype(np.int64), len(chosen) - 1)]


def _marked(rows: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    marked = np.zeros(size, np.bool_)
    marked[rows] = True
    return marked

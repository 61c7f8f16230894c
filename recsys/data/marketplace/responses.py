"""What users do with what they see: probabilities of a click and of a conversion, and the law of its delay.

Users, items and hours are arrays of any shapes that broadcast against each other: pairs, or users against a catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.data.marketplace.interests import Interests
from recsys.data.marketplace.laws import AGE_BANDS, DelayLaw
from recsys.data.marketplace.tables import Doubles
from recsys.data.marketplace.world import World

Index = NDArray[Any]


def examination(world: World, positions: Index) -> Doubles:
    """Probability that a place of the slate, counted from 1, is looked at."""
    return np.asarray(positions, np.float64) ** -world.laws.click.eta


def affinity(world: World, interests: Interests, products: Doubles) -> Doubles:
    """The best match of an item with any interest of its user.

    Args:
        world: whose laws hold.
        interests: of B users.
        products: (B, n, K) of interest vectors and latent vectors of items.

    Returns:
        (B, n).
    """
    law = world.laws.click
    lost = np.where(interests.is_active, 0.0, law.away)
    lost = np.where(interests.weight > 0, lost, np.inf)
    best: Doubles = (law.gain * products - lost[:, None, :]).max(axis=2)
    return best


def p_relevant(world: World, users: Index, items: Index, hours: Index, matched: Doubles) -> Doubles:
    """Probability of a click on an item that is looked at.

    Args:
        world: whose laws hold.
        users: rows.
        items: rows.
        hours: of the simulation.
        matched: affinity of each pair.
    """
    law, people, goods = world.laws.click, world.population, world.items
    price = goods.relative_price[items]
    age = np.maximum(np.asarray(hours, np.float64) - goods.born[items], 0.0)
    logit = law.base + matched + goods.quality[items]
    logit = logit + world.tree.age_category[people.age[users], world.category[items]]
    slope = np.array(law.device_price)[people.device[users]] - law.sensitivity * people.sensitivity[users]
    logit = logit + slope * price + law.novelty * np.exp(-age / law.novelty_hours)
    return _sigmoid(logit)


def p_convert(world: World, users: Index, items: Index, hours: Index, matched: Doubles) -> Doubles:
    """Probability that a click becomes a conversion within the attribution window; arguments as `p_relevant`."""
    law, people, goods = world.laws.conversion, world.population, world.items
    category = world.category[items]
    logit = law.base + law.fit * matched + goods.conversion_quality[items]
    logit = logit + world.tree.country_category[people.country[users], category]
    slope = np.array(law.device_price)[people.device[users]] - law.sensitivity * people.sensitivity[users]
    turn = np.asarray(hours, np.float64) / (24.0 * law.promotion_days) + world.tree.promotion_phase[category]
    logit = logit + slope * goods.relative_price[items] + law.promotion * np.sin(2.0 * np.pi * turn)
    return _sigmoid(logit)


@dataclass(frozen=True, slots=True, eq=False)
class Delays:
    """The delay of each of n conversions, given that there is one: a law of two parts, cut off at the window.

    Attributes:
        law: constants of both parts.
        fast_share: (n,) of the quick part.
        scale_hours: (n,) of the slow part.
    """

    law: DelayLaw
    fast_share: Doubles
    scale_hours: Doubles

    @classmethod
    def of(cls, world: World, users: Index, items: Index, hours: Index) -> Delays:
        """Of clicks of users on items at hours of the simulation."""
        law, people = world.laws.delay, world.population
        price, now = world.items.relative_price[items], np.asarray(hours, np.float64)
        wave = law.fast_wave * np.sin(2.0 * np.pi * now / (24.0 * law.wave_days))
        share = law.base + law.fast_price * price + np.array(law.fast_device)[people.device[users]] + wave
        age = 2.0 * people.age[users] / (len(AGE_BANDS) - 1) - 1.0
        trend = law.scale_trend * (now / world.laws.hours - 0.5)
        return cls(law, _sigmoid(share), np.exp(law.log_scale + law.scale_price * price + law.scale_age * age + trend))

    def cdf(self, hours: Index) -> Doubles:
        """P(D ≤ hours), which is 1 from the end of the window on."""
        elapsed = np.clip(np.asarray(hours, np.float64), 0.0, self.law.window_hours)
        return self._uncut(elapsed) / self._uncut(np.array(self.law.window_hours))

    def sample(self, part: Doubles, within: Doubles) -> Doubles:
        """(n,) delays in hours from two numbers in [0, 1) each: the inverse of `cdf`, part by part."""
        window = np.array(self.law.window_hours)
        quick, slow = self._quick(window), self._slow(window)
        fast = part * self._uncut(window) < self.fast_share * quick
        depth = -np.log1p(-within * np.where(fast, quick, slow))
        return np.where(fast, self.law.fast_hours * depth, self.scale_hours * depth ** (1.0 / self.law.shape))

    def _uncut(self, hours: Doubles) -> Doubles:
        return self.fast_share * self._quick(hours) + (1.0 - self.fast_share) * self._slow(hours)

    def _quick(self, hours: Doubles) -> Doubles:
        return -np.expm1(-hours / self.law.fast_hours)

    def _slow(self, hours: Doubles) -> Doubles:
        return -np.expm1(-((hours / self.scale_hours) ** self.law.shape))


def _sigmoid(logit: Doubles) -> Doubles:
    return 1.0 / (1.0 + np.exp(-logit))

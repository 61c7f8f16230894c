"""The tables of a world: the tree of items, the items, the users; and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.data.marketplace.laws import AGE_BANDS, COUNTRIES, Laws
from recsys.data.marketplace.streams import Stream, generator

Doubles = NDArray[np.float64]
Integers = NDArray[np.int32]

_MEAN_LOG_PRICE = 3.3
_DEVICE_SHARES = (0.6, 0.3, 0.1)
_AGE_SHARES = (0.16, 0.24, 0.22, 0.17, 0.13, 0.08)


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Clusters of items, and effects that belong to attributes.

    Attributes:
        category: (M,) category of each cluster; clusters of a subcategory stand together.
        size: (M,) share of the items in each cluster, adds up to 1.
        centre: (M, d) latent centre of each cluster.
        tastes: (T, d) unit vectors: the personal directions of interests.
        age_tilt: (A, C) logits of interests' categories, by age band.
        age_category: (A, C) effect on the logit of a click.
        country_category: (countries, C) effect on the logit of a conversion.
        promotion_phase: (C,) where each category's promotions start, as a share of their period.
    """

    category: Integers
    size: Doubles
    centre: Doubles
    tastes: Doubles
    age_tilt: Doubles
    age_category: Doubles
    country_category: Doubles
    promotion_phase: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """N items; row i has item_id i + 1.

    Attributes:
        cluster: (N,) in the tree.
        brand: (N,) number of the brand.
        latent: (N, d).
        quality, conversion_quality: (N,) what an item adds to the logits.
        popularity: (N,) exposure weight.
        price: (N,) in money; `relative_price` (N,) its standardised logarithm.
        bid: (N,) money a click.
        born, gone: (N,) first hour an item is there, and first hour it is not any more.
    """

    cluster: Integers
    brand: Integers
    latent: Doubles
    quality: Doubles
    conversion_quality: Doubles
    popularity: Doubles
    price: Doubles
    relative_price: Doubles
    bid: Doubles
    born: Integers
    gone: Integers


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """U users; row u has user_id u + 1.

    Attributes:
        age, country, device: (U,) places in AGE_BANDS, COUNTRIES, DEVICES.
        interests: (U,) how many interests a user has.
        sensitivity: (U,) to prices, standard normal.
        activity: (U,) sessions relative to the mean user.
    """

    age: Integers
    country: Integers
    device: Integers
    interests: Integers
    sensitivity: Doubles
    activity: Doubles


def draw_tree(laws: Laws) -> Tree:
    """The tree of a world."""
    law, rng = laws.tree, generator(laws.seed, Stream.TREE)
    subcategories = law.categories * law.subcategories
    clusters = subcategories * law.clusters
    top = _directions(rng, law.categories, law.dim) * law.category_spread
    middle = np.repeat(top, law.subcategories, axis=0)
    middle += _directions(rng, subcategories, law.dim) * law.subcategory_spread
    centre = np.repeat(middle, law.clusters, axis=0)
    centre += _directions(rng, clusters, law.dim) * law.cluster_spread
    size = np.exp(law.size_spread * rng.standard_normal(clusters))
    return Tree(
        category=np.repeat(np.arange(law.categories, dtype=np.int32), law.subcategories * law.clusters),
        size=size / size.sum(),
        centre=centre,
        tastes=_directions(rng, laws.interests.tastes, law.dim),
        age_tilt=laws.interests.age_tilt * rng.standard_normal((len(AGE_BANDS), law.categories)),
        age_category=laws.click.age_category * rng.standard_normal((len(AGE_BANDS), law.categories)),
        country_category=laws.conversion.country_category * rng.standard_normal((len(COUNTRIES), law.categories)),
        promotion_phase=rng.random(law.categories),
    )


def draw_items(laws: Laws, tree: Tree) -> Items:
    """Every item that there ever is."""
    law, rng, n = laws.catalogue, generator(laws.seed, Stream.ITEMS), laws.items
    cluster = _choose(rng, tree.size, n)
    category = tree.category[cluster]
    brand = _brands(laws, category, rng.random(n))
    renown = rng.standard_normal(laws.tree.brands)[brand]
    quality = law.quality_spread * (0.5 * renown + np.sqrt(0.75) * rng.standard_normal(n))
    conversion_quality = laws.conversion.quality_spread * rng.standard_normal(n)
    level = law.category_price_spread * rng.standard_normal(laws.tree.categories)
    price = np.exp(_MEAN_LOG_PRICE + level[category] + law.price_spread * rng.standard_normal(n) + 0.15 * renown)
    price = np.maximum(np.round(price, 2), 0.5)
    log_price = np.log(price)
    spread = max(float(log_price.std()), 1e-9)
    noise = np.exp(law.bid_spread * rng.standard_normal(n))
    popularity = np.exp(law.popularity_spread * rng.standard_normal(n) + law.popularity_quality * quality)
    born, gone = _lives(laws, rng)
    return Items(
        cluster=cluster,
        brand=brand,
        latent=tree.centre[cluster] + laws.tree.item_spread * _directions(rng, n, laws.tree.dim),
        quality=quality,
        conversion_quality=conversion_quality,
        popularity=popularity,
        price=price,
        relative_price=(log_price - log_price.mean()) / spread,
        bid=np.maximum(np.round(law.bid_share * 0.1 * price * np.exp(conversion_quality) * noise, 3), 0.01),
        born=born,
        gone=gone,
    )


def draw_population(laws: Laws) -> Population:
    """Every user."""
    rng, n = generator(laws.seed, Stream.USERS), laws.users
    counts = np.array(laws.interests.counts)
    countries = 1.0 / np.arange(1, len(COUNTRIES) + 1)
    activity = np.exp(laws.activity_spread * rng.standard_normal(n))
    return Population(
        age=_choose(rng, np.array(_AGE_SHARES), n),
        country=_choose(rng, countries, n),
        device=_choose(rng, np.array(_DEVICE_SHARES), n),
        interests=_choose(rng, counts, n) + np.int32(1),
        sensitivity=rng.standard_normal(n),
        activity=activity / activity.mean(),
    )


def _directions(rng: np.random.Generator, count: int, dim: int) -> Doubles:
    """(count, dim) unit vectors, uniform on the sphere."""
    drawn = rng.standard_normal((count, dim))
    directions: Doubles = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return directions


def _choose(rng: np.random.Generator, weights: Doubles, count: int) -> Integers:
    """(count,) places drawn by weight."""
    edges = np.cumsum(weights)
    drawn = edges.searchsorted(rng.random(count) * edges[-1], side="right")
    places: Integers = np.minimum(drawn, len(weights) - 1).astype(np.int32)
    return places


def _brands(laws: Laws, category: Integers, drawn: Doubles) -> Integers:
    """(N,) a brand of the item's category, the first ones more often."""
    each = max(1, laws.tree.brands // laws.tree.categories)
    place = (drawn**2 * each).astype(np.int32)
    return ((category + laws.tree.categories * place) % laws.tree.brands).astype(np.int32)


def _lives(laws: Laws, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """(N,) hour of birth, 0 or earlier for what is there from the start, and hour of leaving, after birth."""
    law, n, hours = laws.catalogue, laws.items, laws.hours
    arrives = rng.random(n) < law.arriving
    before = -np.floor(rng.exponential(24.0 * law.age_days, n))
    born = np.where(arrives, 1 + np.floor(rng.random(n) * (hours - 1)), before)
    stays = np.ceil(rng.exponential(law.life * hours, n))
    gone = np.maximum(born, 0) + np.maximum(stays, 1)
    return born.astype(np.int32), np.minimum(gone, 2**30).astype(np.int32)

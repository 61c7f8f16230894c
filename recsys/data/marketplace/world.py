"""A world: laws and the tables drawn from them, and what of it a log's owner would see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from recsys.columns import BID, CREATED_MS, ITEM_ID, TITLE, USER_ID
from recsys.data.marketplace.laws import AGE_BANDS, COUNTRIES, DEVICES, HOUR_MS, Laws
from recsys.data.marketplace.tables import (
    Doubles,
    Integers,
    Items,
    Population,
    Tree,
    draw_items,
    draw_population,
    draw_tree,
)
from recsys.data.marketplace.words import brand_names, category_names, cluster_nouns, subcategory_names, titles


@dataclass(frozen=True, eq=False)
class World:
    """Everything that is fixed before the first hour."""

    laws: Laws
    tree: Tree
    items: Items
    population: Population

    @classmethod
    def draw(cls, laws: Laws) -> World:
        """The world of these laws; the same laws give the same world."""
        tree = draw_tree(laws)
        return cls(laws, tree, draw_items(laws, tree), draw_population(laws))

    @cached_property
    def category(self) -> Integers:
        """(N,) category of each item."""
        return self.tree.category[self.items.cluster]

    @cached_property
    def interest_edges(self) -> Doubles:
        """Where each cluster ends on a line on which age band a owns [a, a + 1): how interests are drawn."""
        odds = self.tree.size * np.exp(self.tree.age_tilt[:, self.tree.category])
        shares = np.cumsum(odds, axis=1) / odds.sum(axis=1, keepdims=True)
        edges: Doubles = (shares + np.arange(len(AGE_BANDS))[:, None]).ravel()
        return edges

    def item_frame(self) -> pl.DataFrame:
        """items.parquet: what a shop knows of its items."""
        items, law = self.items, self.laws.tree
        categories = pl.Series(category_names(law.categories))
        subcategories = pl.Series(subcategory_names(law.categories, law.subcategories))
        nouns = cluster_nouns(law.categories, law.subcategories, law.clusters)
        brands = brand_names(law.brands)
        return pl.DataFrame(
            {
                ITEM_ID: np.arange(1, self.laws.items + 1),
                TITLE: titles(items.cluster, items.brand, brands, nouns),
                "category": categories.gather(self.category),
                "subcategory": subcategories.gather(items.cluster // law.clusters),
                "brand": pl.Series(brands).gather(items.brand),
                "price": items.price,
                BID: items.bid,
                CREATED_MS: self.laws.start_ms + items.born.astype(np.int64) * HOUR_MS,
            }
        )

    def user_frame(self) -> pl.DataFrame:
        """users.parquet: what a shop knows of its users."""
        people = self.population
        return pl.DataFrame(
            {
                USER_ID: np.arange(1, self.laws.users + 1),
                "age_band": pl.Series(AGE_BANDS).gather(people.age),
                "country": pl.Series(COUNTRIES).gather(people.country),
                "device": pl.Series(DEVICES).gather(people.device),
            }
        )

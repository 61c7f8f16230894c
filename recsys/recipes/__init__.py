"""The recipes: a new model is one file here and one line in this dictionary."""

from __future__ import annotations

from recsys.recipes.item_knn import ItemKnnRecipe
from recsys.recipes.mind import MindRecipe
from recsys.recipes.popularity import PopularityRecipe
from recsys.recipes.recipe import Recipe
from recsys.recipes.tdm import TdmRecipe
from recsys.recipes.two_tower import TwoTowerRecipe

RECIPES: dict[str, Recipe] = {
    "popularity": PopularityRecipe(),
    "item_knn": ItemKnnRecipe(),
    "two_tower": TwoTowerRecipe(),
    "mind": MindRecipe(),
    "tdm": TdmRecipe(),
}

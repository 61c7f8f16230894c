"""Names of categories, brands and items: words that tell what the tree of items tells."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

_CATEGORIES: Final = (
    "Kitchen", "Garden", "Audio", "Bicycles", "Books", "Camping", "Toys", "Lighting", "Office", "Shoes", "Tools",
    "Jewellery", "Baby", "Pets", "Music", "Bathroom", "Running", "Textiles", "Photo", "Games",
)  # fmt: skip
_NOUNS: Final = (
    "lamp", "chair", "bag", "set", "holder", "box", "stand", "cover", "case", "kit", "frame", "basket", "tray", "belt",
    "board", "mat", "rack", "ring", "cup", "clock",
)  # fmt: skip
_MANNERS: Final = (
    "folding", "compact", "classic", "light", "sturdy", "soft", "quiet", "slim", "round", "square", "woven", "travel",
    "magnetic", "modular", "heavy", "flat",
)  # fmt: skip
_COLOURS: Final = (
    "amber", "blue", "copper", "green", "ivory", "black", "red", "silver", "sand", "teal", "white", "violet",
)  # fmt: skip
_SYLLABLES: Final = ("ba", "co", "da", "fe", "go", "ka", "li", "mo", "na", "ro", "se", "ta", "ul", "vi", "zo", "ri")


def category_names(count: int) -> list[str]:
    """`count` different categories."""
    return [_numbered(_CATEGORIES, n) for n in range(count)]


def subcategory_names(categories: int, each: int) -> list[str]:
    """`each` subcategories of every category, in the order of the categories."""
    nouns = [_noun(n, each) for n in range(categories * each)]
    return [f"{_numbered(_CATEGORIES, n // each)}: {noun}s" for n, noun in enumerate(nouns)]


def brand_names(count: int) -> list[str]:
    """`count` different brands of two to four syllables."""
    names = []
    for n in range(count):
        word, rest = "", n + len(_SYLLABLES)
        while rest:
            rest, digit = divmod(rest, len(_SYLLABLES))
            word += _SYLLABLES[digit]
        names.append(word.capitalize())
    return names


def titles(cluster: NDArray[np.int32], brand: NDArray[np.int32], brands: list[str], nouns: list[str]) -> pl.Series:
    """(N,) titles: words of the cluster, the brand, the noun of the subcategory, the number of the row.

    Args:
        cluster: (N,) of each item.
        brand: (N,) of each item.
        brands: names of the brands.
        nouns: one for each cluster.
    """
    clusters = len(nouns)
    manner = pl.Series([_MANNERS[c % len(_MANNERS)].capitalize() for c in range(clusters)], dtype=pl.String)
    colour = pl.Series([_COLOURS[c // len(_MANNERS) % len(_COLOURS)] for c in range(clusters)], dtype=pl.String)
    words = [
        manner.gather(cluster),
        colour.gather(cluster),
        pl.Series(brands).gather(brand),
        pl.Series(nouns).gather(cluster),
        pl.Series(np.arange(1, len(cluster) + 1)).cast(pl.String),
    ]
    columns = [word.alias(str(place)) for place, word in enumerate(words)]
    return pl.DataFrame(columns).select(pl.concat_str(pl.all(), separator=" ").alias("title"))["title"]


def cluster_nouns(categories: int, subcategories: int, clusters: int) -> list[str]:
    """The noun of every cluster, that of its subcategory."""
    return [_noun(n, subcategories) for n in range(categories * subcategories) for _ in range(clusters)]


def _noun(subcategory: int, each: int) -> str:
    category, place = divmod(subcategory, each)
    return _numbered(_NOUNS, (3 * category + place) % len(_NOUNS) + place // len(_NOUNS) * len(_NOUNS))


def _numbered(words: tuple[str, ...], n: int) -> str:
    again, place = divmod(n, len(words))
    return words[place] if not again else f"{words[place]} {again + 1}"

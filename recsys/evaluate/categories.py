"""What kinds of items there are, by an attribute of the catalogue, and how many kinds a user's history holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from recsys.columns import ITEM_ID, TITLE
from recsys.data.catalogue import Catalogue
from recsys.evaluate.yardstick_models import weighted
from recsys.types import RaggedRows

MOST_CATEGORIES: Final = 200
LEAST_ITEMS: Final = 20
"""Items a category has on average, at least: a name of its own for nearly every item is no category."""
_LEAST_KNOWN: Final = 0.5
_ROW: Final = "row"


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """The categories of N items.

    Attributes:
        column: the attribute that they are taken from.
        names: of the C categories.
        shares: (N, C) sparse; an item of several categories belongs to each by an equal share, one of none to none.
    """

    column: str
    names: list[str]
    shares: sparse.csr_matrix

    @classmethod
    def of(cls, catalogue: Catalogue) -> Categories | None:
        """By the first text or list of texts that divides the items into kinds, None where there is none.

        It must be known of half of the items and have 2 to MOST_CATEGORIES values, each with LEAST_ITEMS items on
        average.
        """
        for name in catalogue.attribute_names:
            kind = catalogue.frame.schema[name]
            if name == TITLE or kind not in (pl.String, pl.List(pl.String)):
                continue
            pairs = _pairs(catalogue, name)
            values = pairs[name].n_unique()
            known = pairs[_ROW].n_unique()
            if 2 <= values <= MOST_CATEGORIES and known >= max(_LEAST_KNOWN * len(catalogue), LEAST_ITEMS * values):
                return cls._from(name, pairs, len(catalogue))
        return None

    @classmethod
    def _from(cls, column: str, pairs: pl.DataFrame, items: int) -> Categories:
        names = pairs[column].unique().sort().to_list()
        place = pairs[column].replace_strict(names, np.arange(len(names))).to_numpy()
        row = pairs[_ROW].to_numpy()
        share = 1.0 / np.bincount(row, minlength=items)[row]
        return cls(column, names, sparse.csr_matrix((share, (row, place)), (items, len(names))))

    def entropy(self, histories: RaggedRows) -> NDArray[np.float64]:
        """(B,) entropy of the categories of each history, in bits; 0 for one that has none."""
        ones = np.ones(len(histories.values), np.float32)
        counts = (weighted(histories, ones, self.shares.shape[0]) @ self.shares).toarray()
        total = counts.sum(axis=1, keepdims=True)
        share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        bits: NDArray[np.float64] = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(axis=1)
        return bits


def _pairs(catalogue: Catalogue, name: str) -> pl.DataFrame:
    """(row, value) of every category that an item has, each once."""
    column = catalogue.frame.select(ITEM_ID, name).drop(ITEM_ID).with_row_index(_ROW)
    if column.schema[name] == pl.List(pl.String):
        column = column.explode(name)
    return column.drop_nulls().unique(maintain_order=True)

"""Filters on item attributes: which rows pass, what is refused, what is remembered."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import polars as pl
import pytest

from recsys.data.catalogue import Catalogue
from recsys.errors import RequestError
from recsys.retrieval import filters
from recsys.retrieval.filters import AttributeFilter, row_mask
from recsys.testing.toy import toy_items


@pytest.fixture
def catalogue() -> Catalogue:
    """The eight toy films, with what columns of other types may hold."""
    return Catalogue(
        toy_items().with_columns(
            on_sale=pl.Series([True, False, True, None, False, False, True, True]),
            score=pl.Series([1.5, float("nan"), None, 2.0, -1.0, 0.0, 1.5, 9.0]),
            codes=pl.Series([[1, 2], [2], None, [], [3], [1], [2, 3], [9]]),
            kind=pl.Series(["a", "b", "a", None, "c", "a", "b", "c"], dtype=pl.Categorical),
        )
    )


def passing(catalogue: Catalogue, *wanted: AttributeFilter) -> list[int]:
    mask = row_mask(catalogue, wanted)
    assert mask is not None
    assert mask.allowed.shape == (8,)
    assert mask.allowed.dtype == np.bool_
    return np.flatnonzero(mask.allowed).tolist()


@pytest.mark.parametrize(
    ("wanted", "rows"),
    [
        (AttributeFilter("genres", ("SciFi",)), [0, 1, 3]),
        (AttributeFilter("genres", ("Horror", "Crime")), [0, 4, 5, 6]),
        (AttributeFilter("genres", ("Western",)), []),
        (AttributeFilter("title", ("Dune", "Heat")), [3, 7]),
        (AttributeFilter("year", ("1979", "1985")), [0, 1]),
        (AttributeFilter("year", min=1979), [0, 1, 3, 5]),
        (AttributeFilter("year", max=1946), [2, 6]),
        (AttributeFilter("year", min=1977, max=1979), [0, 4]),
        (AttributeFilter("year", ("1977", "1996"), min=1990), [5]),
        (AttributeFilter("price", ("2",)), [1, 6]),
        (AttributeFilter("score", min=-5), [0, 3, 4, 5, 6, 7]),
        (AttributeFilter("score", max=float("inf")), [0, 3, 4, 5, 6, 7]),
        (AttributeFilter("on_sale", ("true",)), [0, 2, 6, 7]),
        (AttributeFilter("on_sale", ("False",)), [1, 4, 5]),
        (AttributeFilter("codes", ("2", "9")), [0, 1, 6, 7]),
        (AttributeFilter("kind", ("a",)), [0, 2, 5]),
    ],
)
def test_a_filter_lets_these_rows_pass(catalogue: Catalogue, wanted: AttributeFilter, rows: list[int]) -> None:
    assert passing(catalogue, wanted) == rows
    assert passing(catalogue, wanted) == rows


def test_several_filters_must_all_pass(catalogue: Catalogue) -> None:
    assert passing(catalogue, AttributeFilter("genres", ("SciFi",)), AttributeFilter("year", max=1980)) == [0]


def test_without_filters_there_is_no_mask(catalogue: Catalogue) -> None:
    assert row_mask(catalogue, []) is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (AttributeFilter("colour", ("red",)), "colour.*there are: title, year, price, genres"),
        (AttributeFilter("item_id", ("10",)), "item_id"),
        (AttributeFilter("year"), "any_of, min or max"),
        (AttributeFilter("title", min=1), "title.*number for min and max"),
        (AttributeFilter("genres", max=1), "genres.*number for min and max"),
        (AttributeFilter("year", ("soon",)), "soon.*number for year"),
        (AttributeFilter("codes", ("x",)), "x.*number for codes"),
        (AttributeFilter("on_sale", ("maybe",)), "maybe.*true.*false"),
        (AttributeFilter("year", min=float("nan")), "nan.*must be a number"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_field_value_and_bound(
    catalogue: Catalogue, wanted: AttributeFilter, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        row_mask(catalogue, [wanted])


def test_a_mask_is_made_once_and_cannot_be_changed(catalogue: Catalogue) -> None:
    first = row_mask(catalogue, [AttributeFilter("genres", ("SciFi",))])
    again = row_mask(catalogue, [AttributeFilter("genres", ("SciFi",))])
    assert first is not None
    assert again is not None
    assert first.allowed is again.allowed
    with pytest.raises(ValueError, match="read-only"):
        first.allowed[0] = False


def test_the_masks_least_used_are_forgotten(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "MAX_CACHED", 2)
    kept = row_mask(catalogue, [AttributeFilter("year", min=1)])
    for bound in (2, 3, 4):
        row_mask(catalogue, [AttributeFilter("year", min=bound)])
        assert len(filters._masks_of(catalogue)._kept) <= 2
    again = row_mask(catalogue, [AttributeFilter("year", min=1)])
    assert kept is not None
    assert again is not None
    assert kept.allowed is not again.allowed


def test_masks_go_with_their_catalogue() -> None:
    catalogue = Catalogue(toy_items())
    row_mask(catalogue, [AttributeFilter("year", min=1)])
    gone = weakref.ref(catalogue)
    del catalogue
    gc.collect()
    assert gone() is None

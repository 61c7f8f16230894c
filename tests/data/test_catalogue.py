from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.columns import ITEM_ID
from recsys.data.catalogue import Catalogue
from recsys.data.string_ids import key_dictionary
from recsys.errors import BundleError, RequestError
from recsys.testing.toy import toy_items, write_toy


@pytest.fixture
def toy(tmp_path: Path) -> Catalogue:
    return Catalogue.from_dataset(write_toy(tmp_path / "toy"))


@pytest.fixture
def named() -> Catalogue:
    dictionary = key_dictionary(pl.Series(["mug", "pen", "cup"]), "item_id")
    frame = dictionary.select("item_id", title=pl.Series(["A", None, None]))
    return Catalogue(frame, dictionary["key"])


def test_rows_follow_ids_and_unknown_ids_have_none(toy: Catalogue) -> None:
    assert toy.rows_of(np.array([80, 10, 11, 9, 81, 2**62, -5], np.int64)).tolist() == [7, 0, -1, -1, -1, -1, -1]
    assert toy.rows_of(toy.ids).tolist() == list(range(8))
    assert toy.rows_of(np.empty(0, np.int64)).tolist() == []
    assert toy.rows_of(toy.ids).dtype == np.int32


def test_an_empty_catalogue_knows_nothing() -> None:
    assert Catalogue(toy_items().clear()).rows_of(np.array([1], np.int64)).tolist() == [-1]


def test_an_opened_catalogue_is_the_saved_one(toy: Catalogue, named: Catalogue, tmp_path: Path) -> None:
    for catalogue, files in ((toy, 2), (named, 3)):
        folder = tmp_path / str(files)
        folder.mkdir()
        written = catalogue.save(folder)
        assert sorted(written) == sorted(folder.iterdir())
        assert len(written) == files
        opened = Catalogue.open(folder)
        assert opened.hash == catalogue.hash
        assert opened.frame.equals(catalogue.frame)
        assert opened.keys == catalogue.keys
        assert opened.titles() == catalogue.titles()


def test_opened_ids_lie_in_the_file_and_not_in_memory(toy: Catalogue, tmp_path: Path) -> None:
    toy.save(tmp_path)
    assert not Catalogue.open(tmp_path).ids.flags.writeable
    assert not Catalogue.open(tmp_path).ids.flags.owndata


def test_a_damaged_catalogue_is_refused_by_its_file(toy: Catalogue, tmp_path: Path) -> None:
    toy.save(tmp_path)
    file = tmp_path / "items.arrow"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BundleError, match=r"items.arrow"):
        Catalogue.open(tmp_path)
    file.unlink()
    with pytest.raises(BundleError, match=r"items.arrow"):
        Catalogue.open(tmp_path)


def test_attributes_are_text_and_missing_ones_are_left_out(toy: Catalogue) -> None:
    assert toy.attributes(0) == {"title": "Alien", "year": "1979", "price": "1.0", "genres": "Horror|SciFi"}
    assert toy.attributes(7) == {"title": "Heat", "price": "3.5", "genres": ""}
    assert toy.attributes(3, ["genres"]) == {"genres": "SciFi"}
    assert toy.attributes_of(np.array([2, 0], np.int32), ["title"]) == [{"title": "Casablanca"}, {"title": "Alien"}]


def test_an_unknown_attribute_is_refused_with_those_there_are(toy: Catalogue) -> None:
    with pytest.raises(RequestError, match=r"'colour'.*title, year, price, genres"):
        toy.attributes(0, ["colour"])


def test_an_item_is_called_by_title_then_key_then_id(toy: Catalogue, named: Catalogue) -> None:
    assert toy.titles()[:2] == ["Alien", "Brazil"]
    assert named.titles() == ["A", *named.keys[1:]]
    assert Catalogue(toy_items().select("item_id")).titles()[0] == "10"


def test_a_key_leads_to_its_row_only(named: Catalogue, toy: Catalogue) -> None:
    for row, key in enumerate(named.keys):
        assert named.row_of_key(key) == row
    assert named.row_of_key("spoon") == -1
    assert toy.row_of_key("10") == -1


def test_the_hash_tells_catalogues_apart(toy: Catalogue) -> None:
    assert Catalogue(toy_items()).hash == toy.hash
    assert Catalogue(toy_items().head(7)).hash != toy.hash
    assert Catalogue(toy_items().with_columns(price=pl.lit(2.0))).hash != toy.hash
    keys = pl.Series([f"k{i}" for i in range(8)])
    assert Catalogue(toy_items(), keys).hash != toy.hash


@given(
    ids=st.sets(st.integers(-60, 60) | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40),
    asked=st.lists(st.integers(-70, 70) | st.integers(-(2**63), 2**63 - 1), max_size=20),
)
def test_rows_are_places_in_the_sorted_ids_whether_they_lie_close_or_far_apart(ids: set[int], asked: list[int]) -> None:
    ordered = sorted(ids)
    catalogue = Catalogue(pl.DataFrame({ITEM_ID: pl.Series(ordered, dtype=pl.Int64)}))
    asked = asked + ordered
    expected = [ordered.index(item) if item in ids else -1 for item in asked]
    assert catalogue.rows_of(np.array(asked, np.int64)).tolist() == expected


@given(
    st.integers(-(2**63), 2**63 - 40),
    st.sets(st.integers(0, 39), min_size=8),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
)
def test_ids_close_together_at_either_end_of_the_numbers(first: int, steps: set[int], asked: list[int]) -> None:
    ordered = [first + step for step in sorted(steps)]
    catalogue = Catalogue(pl.DataFrame({ITEM_ID: pl.Series(ordered, dtype=pl.Int64)}))
    asked = asked + [min(max(first + step, -(2**63)), 2**63 - 1) for step in range(-3, 43)]
    expected = [ordered.index(item) if item in ordered else -1 for item in asked]
    assert catalogue.rows_of(np.array(asked, np.int64)).tolist() == expected

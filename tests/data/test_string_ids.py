from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import string_ids
from recsys.data.string_ids import hash_key, key_dictionary
from recsys.errors import DataError


def test_the_hash_is_xxh3_64_without_its_high_bit() -> None:
    # Published test values of XXH3-64 (seed 0): "" and "a".
    assert hash_key("") == 0x2D06800538D394C2
    assert hash_key("a") == 0xE6C632B61E964E1F & ~(1 << 63)


@given(st.text())
def test_an_id_is_never_negative_and_fits_in_63_bits(key: str) -> None:
    assert 0 <= hash_key(key) < 2**63


def test_the_dictionary_leads_back_to_every_string() -> None:
    dictionary = key_dictionary(pl.Series(["b", "a", None, "b", "ä"]), "item_id")
    assert dictionary["item_id"].is_sorted()
    assert {row[1]: row[0] for row in dictionary.iter_rows()} == {key: hash_key(key) for key in ("a", "b", "ä")}


def test_two_strings_with_one_hash_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(string_ids, "hash_key", lambda key: len(key))
    with pytest.raises(DataError, match="'cat' and 'dog' have the same"):
        key_dictionary(pl.Series(["dog", "cat", "horse"]), "item_id")

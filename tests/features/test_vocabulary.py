from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.errors import BundleError
from recsys.features.values import ValueType
from recsys.features.vocabulary import MISSING, UNSEEN, Vocabulary

STRING, INTEGER = ValueType.STRING, ValueType.INTEGER


def strings(*values: str | None, **limits: int) -> Vocabulary:
    return Vocabulary.fit(STRING, pl.Series(values, dtype=pl.String), **limits)


def test_values_are_ordered_by_count_then_by_value() -> None:
    assert strings("b", "c", "a", "c", "b", "d").values.to_list() == ["b", "c", "a", "d"]
    counted = Vocabulary.fit(INTEGER, pl.Series([7, -1, 7, 3, 3, 5]))
    assert counted.values.to_list() == [3, 7, -1, 5]


def test_equal_counts_are_ordered_by_utf8_bytes() -> None:
    assert strings("ä", "z", "Z", "𝄞", "日").values.to_list() == ["Z", "z", "ä", "日", "𝄞"]


def test_codes_start_at_two_and_say_missing_and_unseen_apart() -> None:
    vocabulary = strings("a", "a", "b")
    assert [vocabulary.code_of(v) for v in ("a", "b", "c", None, "")] == [2, 3, UNSEEN, MISSING, MISSING]
    assert vocabulary.cardinality == 4


def test_rare_values_and_those_past_the_limit_are_unseen() -> None:
    assert strings("a", "a", "b", "c", "c", min_count=2).values.to_list() == ["a", "c"]
    assert strings("a", "a", "b", "c", "c", max_size=1).values.to_list() == ["a"]


def test_ids_are_found_by_array() -> None:
    vocabulary = Vocabulary.fit(INTEGER, pl.Series([5, 5, -(2**63), 2**63 - 1]))
    codes = vocabulary.codes_of_ids(np.array([2**63 - 1, 5, 0, -(2**63), 6]))
    np.testing.assert_array_equal(codes, np.array([4, 2, 1, 3, 1], np.int32), strict=True)


def test_an_empty_vocabulary_knows_nothing() -> None:
    vocabulary = Vocabulary.fit(INTEGER, pl.Series([], dtype=pl.Int64))
    assert vocabulary.cardinality == 2
    assert vocabulary.codes_of_ids(np.array([1, 2])).tolist() == [UNSEEN, UNSEEN]
    assert vocabulary.code_of(1) == UNSEEN


@pytest.mark.parametrize("values", [["a", "ä\0b", "日", ""], [1, -5, 2**63 - 1], []])
def test_a_vocabulary_survives_its_file(tmp_path: Path, values: list[object]) -> None:
    kind = INTEGER if not values or isinstance(values[0], int) else STRING
    vocabulary = Vocabulary(kind, pl.Series(values, dtype=kind.dtype))
    path = tmp_path / f"v{vocabulary.suffix}"
    vocabulary.write(path)
    again = Vocabulary.read(kind, path)
    assert again.values.to_list() == values
    assert again.hash == vocabulary.hash


def test_the_hash_tells_order_type_and_boundaries_apart() -> None:
    def hash_of(kind: ValueType, *values: object) -> str:
        return Vocabulary(kind, pl.Series(values, dtype=kind.dtype)).hash

    different = {
        hash_of(STRING, "ab", "c"), hash_of(STRING, "a", "bc"), hash_of(STRING, "c", "ab"), hash_of(STRING),
        hash_of(STRING, ""), hash_of(INTEGER, 1, 2), hash_of(INTEGER, 2, 1), hash_of(INTEGER),
        hash_of(STRING, "1", "2"),
    }  # fmt: skip
    assert len(different) == 9


@pytest.mark.parametrize("content", [b"", b"not a vocabulary", None])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    for kind, name in ((INTEGER, "brand.npy"), (STRING, "brand.arrow")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BundleError, match=name):
            Vocabulary.read(kind, tmp_path / name)


def test_a_pickle_in_place_of_numbers_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "brand.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BundleError, match=r"brand\.npy"):
        Vocabulary.read(INTEGER, tmp_path / "brand.npy")

"""String ids: a stable 63-bit hash, and the dictionary for the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
import xxhash

from recsys.errors import DataError
from recsys.types import Ids

KEY: Final = "key"
"""Column of a dictionary that holds the string; the other is the id column."""

_LOW_63_BITS: Final = (1 << 63) - 1


def hash_key(key: str) -> int:
    """The id of a string: xxh3-64 of its UTF-8 with the high bit cleared, so 0 ≤ id < 2**63."""
    return xxhash.xxh3_64_intdigest(key.encode()) & _LOW_63_BITS


def hash_keys(keys: Sequence[str] | pl.Series) -> Ids:
    """`hash_key` of each of n strings, (n,) int64."""
    return np.fromiter((hash_key(key) for key in keys), np.int64, count=len(keys))


def hash_series(keys: pl.Series) -> pl.Series:
    """`hash_key` of each string of a column, Int64, null where there is none."""
    return pl.Series(keys.name, [None if key is None else hash_key(key) for key in keys], pl.Int64)


def key_dictionary(keys: pl.Series, id_column: str) -> pl.DataFrame:
    """The dictionary (`id_column`, key) of distinct strings, sorted by id.

    Raises:
        DataError: when two different strings have the same hash.
    """
    distinct = keys.drop_nulls().unique()
    ids = pl.Series(id_column, hash_keys(distinct), pl.Int64)
    return _without_clash(pl.DataFrame([ids, distinct.alias(KEY)]))


def joined_dictionaries(dictionaries: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One dictionary of several of the same id column.

    Raises:
        DataError: when different strings of theirs have the same hash.
    """
    return _without_clash(pl.concat(dictionaries).unique())


def _without_clash(dictionary: pl.DataFrame) -> pl.DataFrame:
    """A dictionary sorted by id, of which no two strings share one."""
    id_column = dictionary.columns[0]
    dictionary = dictionary.sort(id_column, KEY)
    clash = dictionary.filter(pl.col(id_column).is_duplicated())
    if clash.height:
        first, second = clash[KEY][0], clash[KEY][1]
        raise DataError(
            f"{id_column}: the strings {first!r} and {second!r} have the same 63-bit hash {clash[id_column][0]}; "
            "rename one of them"
        )
    return dictionary

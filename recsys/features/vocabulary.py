"""The codes of values: 0 missing or padding, 1 unseen, from 2 on the vocabulary by frequency."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.errors import BundleError
from recsys.features.values import CANONICAL, ValueType, is_missing
from recsys.types import Ids

MISSING: Final = 0
"""Code of a missing value, and padding."""
UNSEEN: Final = 1
"""Code of a value that the vocabulary does not hold."""
FIRST: Final = 2
"""Code of the most frequent value."""

Codes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Distinct values, most frequent first; equal counts in the order of the value.

    Strings are ordered by their UTF-8 bytes. The value at position p has the code p + 2.

    Attributes:
        type: canonical type of the values.
        values: Int64 or String, distinct, no nulls.
    """

    type: ValueType
    values: pl.Series

    @classmethod
    def fit(
        cls, kind: ValueType, canonical: pl.Series, *, min_count: int = 1, max_size: int | None = None
    ) -> Vocabulary:
        """Counts canonical values (nulls are ignored) and keeps the frequent ones.

        Args:
            kind: canonical type of the values.
            canonical: one row an occurrence.
            min_count: values counted less often are left out.
            max_size: at most so many values, the most frequent.
        """
        counts = (
            canonical.rename("value").to_frame().lazy().drop_nulls().group_by("value").len()
            .filter(pl.col("len") >= min_count)
            .sort(["len", "value"], descending=[True, False])
            .select("value")
        )  # fmt: skip
        if max_size is not None:
            counts = counts.head(max_size)
        return cls(kind, counts.collect().to_series().cast(kind.dtype).rechunk())

    def __len__(self) -> int:
        return len(self.values)

    @property
    def cardinality(self) -> int:
        """Rows of an embedding table for these codes: the values, missing and unseen."""
        return len(self.values) + FIRST

    def code_of(self, value: Any) -> int:
        """Code of one raw value of any type."""
        if is_missing(value):
            return MISSING
        return self.lookup.get(CANONICAL[self.type](value), UNSEEN)

    def codes_of_ids(self, ids: Ids) -> Codes:
        """Codes of integers, (N,) int64 to (N,) int32; none of them is missing."""
        ordered, codes = self._ordered
        if not len(ordered):
            return np.full(len(ids), UNSEEN, np.int32)
        place = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
        return np.where(ordered[place] == ids, codes[place], np.int32(UNSEEN))

    def codes_expression(self, canonical: pl.Expr, missing: pl.Expr) -> pl.Expr:
        """Codes (Int32) of a column in canonical form, given where the raw column is missing."""
        codes = pl.Series(np.arange(FIRST, self.cardinality, dtype=np.int32))
        found = canonical.replace_strict(self.values, codes, default=UNSEEN, return_dtype=pl.Int32)
        return pl.when(missing).then(pl.lit(MISSING, pl.Int32)).otherwise(found)

    @cached_property
    def lookup(self) -> dict[Any, int]:
        """Canonical value to code, built on first use."""
        return dict(zip(self.values.to_list(), range(FIRST, self.cardinality), strict=True))

    @cached_property
    def _ordered(self) -> tuple[Ids, Codes]:
        """The integers in ascending order and the code of each."""
        values = self.values.to_numpy()
        order = np.argsort(values, kind="stable")
        return values[order], (order + FIRST).astype(np.int32)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over type and values, in order; independent of file formats."""
        digest = hashlib.sha256(self.type.value.encode())
        if self.type is ValueType.INTEGER:
            digest.update(self.values.to_numpy().astype("<i8").tobytes())
        else:
            digest.update(self.values.str.len_bytes().to_numpy().astype("<u4").tobytes())
            digest.update("".join(self.values.to_list()).encode())
        return digest.hexdigest()

    @property
    def suffix(self) -> str:
        """Ending of the file that `write` makes."""
        return ".npy" if self.type is ValueType.INTEGER else ".arrow"

    def write(self, path: Path) -> None:
        """Writes the values: NumPy's format for integers, Arrow IPC for strings."""
        if self.type is ValueType.INTEGER:
            np.save(path, self.values.to_numpy(), allow_pickle=False)
        else:
            self.values.rename("value").to_frame().write_ipc(path, compat_level=pl.CompatLevel.oldest())

    @classmethod
    def read(cls, kind: ValueType, path: Path) -> Vocabulary:
        """Reads what `write` wrote.

        Raises:
            BundleError: names the file that is missing or cannot be read as a vocabulary.
        """
        try:
            if kind is ValueType.INTEGER:
                values = pl.Series(np.load(path, allow_pickle=False))
            else:
                values = pl.read_ipc(path.read_bytes())["value"]
        except (OSError, ValueError, EOFError, pl.exceptions.PolarsError) as error:
            raise BundleError(f"{path}: not a vocabulary ({error}); fit or fetch the feature set again") from None
        if values.dtype != kind.dtype:
            raise BundleError(f"{path}: holds {values.dtype}, should hold {kind.value}s; fit or fetch it again")
        return cls(kind, values)

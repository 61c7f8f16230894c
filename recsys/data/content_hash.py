"""A hash of what tables hold: the same values give the same hash, however a file encodes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import polars as pl


def frame_hash(frame: pl.DataFrame) -> str:
    """Hex SHA-256 of column names, types and rows, in their order."""
    return batches_hash(frame.schema, [frame])


def batches_hash(schema: Mapping[str, pl.DataType], batches: Iterable[pl.DataFrame]) -> str:
    """`frame_hash` of the concatenation of `batches`, which share `schema`."""
    digest = TableDigest(schema)
    for batch in batches:
        digest.update(batch)
    return digest.hexdigest()


class TableDigest:
    """The hash of a table that comes batch by batch.

    Each column is hashed on its own, its values and its nulls apart, so that where one batch ends
    and the next begins does not matter.
    """

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._values = {name: hashlib.sha256(f"{name}\0{kind}\0".encode()) for name, kind in schema.items()}
        self._nulls = {name: hashlib.sha256() for name in schema}

    def update(self, batch: pl.DataFrame) -> None:
        """Adds the rows of a batch."""
        for name, values in self._values.items():
            values.update(_value_bytes(batch[name]))
            self._nulls[name].update(batch[name].is_null().to_numpy().tobytes())

    def hexdigest(self) -> str:
        """The hash of all rows so far."""
        return combine(
            digest.hexdigest() for name in self._values for digest in (self._values[name], self._nulls[name])
        )


def combine(hashes: Iterable[str]) -> str:
    """One hash of several, in their order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _value_bytes(column: pl.Series) -> bytes:
    """Bytes that determine the values that are not null."""
    if column.dtype.is_integer() or column.dtype.is_float():
        return column.fill_null(0).to_numpy().tobytes()
    return column.alias("v").to_frame().write_ndjson().encode()

"""A hash of what tables hold: the same values give the same hash, however a file encodes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import polars as pl


def frame_hash(frame: pl.DataFrame) -> str:
    """Hex SHA-256 of column names, types and rows, in their order."""
    return batches_hash(frame.schema, [frame])


def batches_hash(schema: Mapping[str, pl.DataType], batches: Iterable[pl.DataFrame]) -> str:
    """`frame_hash` of the concatenation of `batches`, which share `schema`.

    A column is hashed on its own, so that where one batch ends and the next begins does not matter.
    """
    hashers = {name: hashlib.sha256(f"{name}\0{kind}\0".encode()) for name, kind in schema.items()}
    for batch in batches:
        for name, hasher in hashers.items():
            hasher.update(_column_bytes(batch[name]))
    return combine(hasher.hexdigest() for hasher in hashers.values())


def combine(hashes: Iterable[str]) -> str:
    """One hash of several, in their order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _column_bytes(column: pl.Series) -> bytes:
    """The values as bytes that determine them, nulls told from every value."""
    if column.dtype.is_integer() or column.dtype.is_float():
        values = column.to_physical().fill_null(0).to_numpy().tobytes()
        return values if column.null_count() == 0 else values + b"\0nulls" + column.is_null().to_numpy().tobytes()
    return column.alias("v").to_frame().write_ndjson().encode()

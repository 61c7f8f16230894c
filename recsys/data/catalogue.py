"""The catalogue: every item that can be recommended, addressed by row inside and by id at the edges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.columns import ITEM_ID, TITLE
from recsys.data.content_hash import combine, frame_hash
from recsys.data.dataset import Dataset
from recsys.data.string_ids import KEY, hash_key
from recsys.errors import BundleError, RequestError
from recsys.files import write_text
from recsys.types import Ids, Rows

_FRAME: Final = "items.arrow"
_KEYS: Final = "item_keys.arrow"
_INFO: Final = "items.json"
CATALOGUE_FILES: Final = (_FRAME, _KEYS, _INFO)
"""What a catalogue is saved as; the second where ids are strings."""
_WIDEST_TABLE: Final = 8
"""Places an item that a table of rows may have: 32 bytes an item, in every process."""


class Catalogue:
    """N items: row i is the i-th of `items.parquet`, which is sorted by item_id.

    Attributes:
        ids: (N,) int64, ascending.
        frame: N rows, item_id and attributes; memory-mapped when opened from a bundle.
        hash: of ids, attributes and keys; components made for another catalogue are refused by it.
    """

    def __init__(self, frame: pl.DataFrame, keys: pl.Series | None = None, content_hash: str | None = None) -> None:
        self.frame = frame
        self.ids: Ids = frame[ITEM_ID].to_numpy()
        self._keys = keys
        self.hash = content_hash or _hash(frame, keys)
        self._table = _row_table(self.ids)

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Catalogue:
        """Every item of a dataset."""
        frame = dataset.items()
        dictionary = dataset.item_keys()
        if dictionary is None:
            return cls(frame)
        return cls(frame, frame.select(ITEM_ID).join(dictionary, on=ITEM_ID, how="left", maintain_order="left")[KEY])

    def save(self, directory: Path) -> list[Path]:
        """Writes the catalogue into an existing directory; returns the files."""
        files = [directory / _FRAME, directory / _INFO]
        self.frame.rechunk().write_ipc(files[0], compression="uncompressed")
        write_text(files[1], json.dumps({"rows": len(self), "hash": self.hash, "string_ids": self._keys is not None}))
        if self._keys is not None:
            files.append(directory / _KEYS)
            self._keys.alias(KEY).to_frame().rechunk().write_ipc(files[2], compression="uncompressed")
        return files

    @classmethod
    def open(cls, directory: Path) -> Catalogue:
        """Memory-maps what `save` wrote.

        Raises:
            BundleError: names the file that is missing or altered.
        """
        try:
            info = json.loads((directory / _INFO).read_text(encoding="utf-8"))
            frame = _mapped(directory / _FRAME)
            keys = _mapped(directory / _KEYS)[KEY] if info["string_ids"] else None
        except (OSError, ValueError, KeyError, pa.ArrowException, pl.exceptions.PolarsError) as error:
            raise BundleError(f"{directory}: its catalogue ({_FRAME}, {_INFO}) cannot be read: {error}") from None
        if frame.height != info["rows"] or ITEM_ID not in frame.columns:
            raise BundleError(f"{directory / _FRAME} does not hold the {info['rows']} items that {_INFO} says")
        return cls(frame, keys, info["hash"])

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def keys(self) -> list[str] | None:
        """The N string ids, None when ids are integers."""
        return None if self._keys is None else self._key_list

    def rows_of(self, ids: Ids) -> Rows:
        """Rows of B ids, int32, -1 for an item that is not in the catalogue."""
        if not len(self.ids):
            return np.full(len(ids), -1, np.int32)
        if self._table is not None:
            # Seen as unsigned, what lies before the first id lies far behind the last one.
            places = np.subtract(ids, self.ids[0]).view(np.uint64)
            rows: Rows = self._table.take(np.minimum(places, np.uint64(len(self._table) - 1)).view(np.int64))
            return rows
        at = self.ids.searchsorted(ids)
        at[at == len(self.ids)] = 0
        at[self.ids[at] != ids] = -1
        return at.astype(np.int32)

    def row_of_key(self, key: str) -> int:
        """Row of a string id, -1 when there is no such item or ids are integers."""
        if self._keys is None:
            return -1
        row = int(self.rows_of(np.array([hash_key(key)], np.int64))[0])
        return row if row >= 0 and self._keys[row] == key else -1

    def titles(self) -> list[str]:
        """What to call each of the N items: its title, else its key, else its id."""
        return self._titles

    @property
    def attribute_names(self) -> list[str]:
        """Columns beside item_id."""
        return [name for name in self.frame.columns if name != ITEM_ID]

    def attributes(self, row: int, names: Sequence[str] | None = None) -> dict[str, str]:
        """Attributes of one item as text; missing values are left out, lists are joined by "|".

        Raises:
            RequestError: for a name that no column has.
        """
        return self.attributes_of(np.array([row], np.int32), names)[0]

    def attributes_of(self, rows: Rows, names: Sequence[str] | None = None) -> list[dict[str, str]]:
        """`attributes` of each of n rows."""
        chosen = self.attribute_names if names is None else list(names)
        for name in chosen:
            if name not in self.frame.columns:
                known = ", ".join(self.attribute_names) or "none"
                raise RequestError("attributes", name, f"there is no such attribute; there are: {known}")
        columns = [self.frame[name].gather(rows).to_list() for name in chosen]
        return [
            {name: _as_text(column[i]) for name, column in zip(chosen, columns, strict=True) if column[i] is not None}
            for i in range(len(rows))
        ]

    @cached_property
    def _key_list(self) -> list[str]:
        assert self._keys is not None
        return self._keys.to_list()

    @cached_property
    def _titles(self) -> list[str]:
        names = self.frame[ITEM_ID].cast(pl.String) if self._keys is None else self._keys
        if TITLE in self.frame.columns:
            names = self.frame.select(pl.coalesce(pl.col(TITLE).cast(pl.String), names))[TITLE]
        return names.to_list()


def _hash(frame: pl.DataFrame, keys: pl.Series | None) -> str:
    return combine([frame_hash(frame)] + ([] if keys is None else [frame_hash(keys.alias(KEY).to_frame())]))


def _mapped(file: Path) -> pl.DataFrame:
    """A frame whose columns lie in the file's pages, shared by all processes that map it."""
    with pa.memory_map(str(file)) as source:
        frame = pl.from_arrow(pa.ipc.open_file(source).read_all())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _row_table(ids: Ids) -> Rows | None:
    """Row of every number from the first id to the last, with a -1 behind; None where ids lie far apart.

    A request looks up hundreds of ids; reading a table takes a sixth of searching a million sorted ids.
    """
    if not len(ids):
        return None
    span = int(ids[-1]) - int(ids[0]) + 1
    if span > _WIDEST_TABLE * len(ids):
        return None
    table = np.full(span + 1, -1, np.int32)
    table[ids - ids[0]] = np.arange(len(ids), dtype=np.int32)
    return table


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return "|".join(_as_text(part) for part in value if part is not None)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)

"""The Parquet file of a batch: one row a user and place, in parts, whole or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.bundle.batch import Part
from recsys.bundle.user_batches import slices
from recsys.columns import ITEM_ID, ITEM_KEY, TITLE, USER_ID, USER_KEY
from recsys.data.catalogue import Catalogue
from recsys.data.string_ids import KEY
from recsys.errors import UsageError
from recsys.files import replacing
from recsys.types import Candidates, Masks, RaggedRows

RANK: Final = "rank"
SCORE: Final = "score"
CHANNELS: Final = "channels"


class Columns:
    """What the file holds: user_id, [user_key], rank, item_id, [item_key], attributes, score, channels.

    Args:
        catalogue: of the bundle.
        channels: names of those asked, in the order of the masks.
        attributes: of the items, a column each; `title` is there even where the catalogue has none.
        user_keys: dictionary (user_id, key), sorted by user_id, where users have string ids.

    Raises:
        UsageError: for an attribute that there is not, or that has the name of another column.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        channels: Sequence[str],
        attributes: Sequence[str] = (),
        user_keys: pl.DataFrame | None = None,
    ) -> None:
        self._ids = catalogue.ids
        self._item_columns = {} if catalogue.keys is None else {ITEM_KEY: pa.array(catalogue.keys)}
        self._item_columns |= {name: _attribute(catalogue, name) for name in attributes}
        self._channels = tuple(channels)
        self._user_keys = user_keys
        self.schema = self.table(_nothing()).schema

    def table(self, part: Part) -> pa.Table:
        """The rows of a part, users in its order, best items first."""
        found = part.candidates
        rank = np.arange(1, len(found.rows) + 1, dtype=np.int32) - np.repeat(found.offsets[:-1], found.counts)
        columns: dict[str, Any] = {USER_ID: np.repeat(part.user_ids, found.counts)}
        if self._user_keys is not None:
            wanted = pl.DataFrame({USER_ID: columns[USER_ID]})
            columns[USER_KEY] = wanted.join(self._user_keys, on=USER_ID, how="left", maintain_order="left")[
                KEY
            ].to_arrow()
        columns |= {RANK: rank.astype(np.int32), ITEM_ID: self._ids[found.rows]}
        columns |= {name: values.take(pa.array(found.rows)) for name, values in self._item_columns.items()}
        return pa.table({**columns, SCORE: found.scores, CHANNELS: self._names(found.channels)})

    def _names(self, masks: Masks) -> pa.Array:
        """The names of the channels in each mask, as lists."""
        different, which = np.unique(masks, return_inverse=True)
        lists = RaggedRows.of([[i for i in range(len(self._channels)) if mask >> i & 1] for mask in different.tolist()])
        at, offsets = slices(lists.offsets, which)
        names = pa.DictionaryArray.from_arrays(lists.values[at], pa.array(self._channels, pa.string()))
        return pa.ListArray.from_arrays(offsets.astype(np.int32), names)


@contextmanager
def batch_file(path: Path, columns: Columns) -> Iterator[Callable[[Part], None]]:
    """Yields what writes a part as a row group; `path` is there once the block has ended well, else as it was before.

    Raises:
        UsageError: when it cannot be written.
    """
    try:
        with replacing(path) as temporary, pq.ParquetWriter(temporary, columns.schema, store_schema=False) as writer:
            yield lambda part: writer.write_table(columns.table(part))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error}); give another file") from None


def _attribute(catalogue: Catalogue, name: str) -> pa.Array:
    """(N,) an attribute of every item."""
    if name in (USER_ID, USER_KEY, RANK, ITEM_ID, ITEM_KEY, SCORE, CHANNELS):
        raise UsageError(f"attribute {name}: the file has a column of that name; leave it out")
    if name == TITLE:
        return pa.array(catalogue.titles())
    if name not in catalogue.attribute_names:
        known = ", ".join(dict.fromkeys([TITLE, *catalogue.attribute_names]))
        raise UsageError(f"attribute {name}: there is no such attribute; there are: {known}")
    return catalogue.frame[name].rechunk().to_arrow()


def _nothing() -> Part:
    """A part of no user, of which only the types of its columns mean anything."""
    return Part(np.empty(0, np.int64), np.empty(0, np.bool_), Candidates.empty(0), 0.0)

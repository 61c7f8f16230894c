"""The users that a bundle brings along: raw attributes, newest history, seen items; memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from recsys.columns import USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import Interactions
from recsys.errors import BundleError
from recsys.stores.store import MAX_HISTORY, MAX_SEEN, UserState
from recsys.types import Bools, Ids, Offsets, Rows, offsets_of

_ARRAYS: Final = ("user_ids", "history_offsets", "history_ids", "history_ms", "seen_offsets", "seen_ids")
_ATTRIBUTES: Final = "attributes.arrow"
_BLOCK: Final = 5_000_000
"""Interactions handled at once, so that the work arrays stay small beside the result."""


@dataclass(frozen=True, slots=True, eq=False)
class BundleUsers:
    """U users as they were when the bundle was made; iterates as (user_id, UserState).

    Attributes:
        user_ids: (U,) int64, ascending.
        history_offsets: (U+1,) int64 into `history_ids` and `history_ms`.
        history_ids: (H,) item ids, at most MAX_HISTORY a user, oldest to newest.
        history_ms: (H,) their times.
        seen_offsets: (U+1,) int64 into `seen_ids`.
        seen_ids: (S,) distinct item ids, at most MAX_SEEN a user, in the order in which each was last seen.
        attributes: U rows of raw values that JSON can hold, one column an attribute.
    """

    user_ids: Ids
    history_offsets: Offsets
    history_ids: Ids
    history_ms: Ids
    seen_offsets: Offsets
    seen_ids: Ids
    attributes: pl.DataFrame

    @classmethod
    def gather(
        cls, *, interactions: Interactions, catalogue: Catalogue, users: pl.DataFrame, max_users: int | None = 1_000_000
    ) -> BundleUsers:
        """The states of the `max_users` users who were active last, None = of all.

        Users with attributes alone come after all who did something.

        Args:
            interactions: clicks and conversions of each user, in rows of `catalogue`.
            catalogue: gives the ids of the rows.
            users: user_id and attributes; may be empty.
            max_users: bound on U.
        """
        chosen = _most_recent(interactions, max_users)
        active = interactions.where(chosen[interactions.user_of()]) if not chosen.all() else interactions
        room = None if max_users is None else max_users - len(active)
        idle = np.setdiff1d(users[USER_ID].to_numpy(), interactions.user_ids)[:room]
        user_ids = np.union1d(active.user_ids, idle)
        at = np.searchsorted(user_ids, active.user_ids)
        user_of = active.user_of()
        history, seen = np.empty(active.size, np.bool_), np.empty(active.size, np.bool_)
        for block in _blocks(active.offsets):
            history[block] = _newest(user_of[block], MAX_HISTORY)
            seen[block] = _newest_seen(user_of[block], active.rows[block])
        return cls(
            user_ids,
            _offsets_at(user_of[history], at, len(user_ids)),
            catalogue.ids[active.rows[history]],
            active.timestamps_ms[history],
            _offsets_at(user_of[seen], at, len(user_ids)),
            catalogue.ids[active.rows[seen]],
            _attributes_of(user_ids, users),
        )

    def save(self, directory: Path) -> list[Path]:
        """Writes the users into a directory, made when absent; returns the files."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(directory / f"{name}.npy", getattr(self, name), allow_pickle=False)
        self.attributes.rechunk().write_ipc(directory / _ATTRIBUTES, compression="uncompressed")
        return [*(directory / f"{name}.npy" for name in _ARRAYS), directory / _ATTRIBUTES]

    @classmethod
    def open(cls, directory: Path) -> BundleUsers:
        """Memory-maps what `save` wrote.

        Raises:
            BundleError: names the file that is missing, altered or does not fit the others.
        """
        arrays = {name: _mapped(directory / f"{name}.npy") for name in _ARRAYS}
        path = directory / _ATTRIBUTES
        try:
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
            frame = pl.DataFrame(table)
        except (OSError, pa.ArrowException) as error:
            raise BundleError(f"{path} cannot be read: {error}") from None
        count = len(arrays["user_ids"])
        # A frame without columns has no height.
        _fits(path, not frame.width or frame.height == count, f"{count} rows")
        for part, values in (("history", ("history_ids", "history_ms")), ("seen", ("seen_ids",))):
            offsets = arrays[f"{part}_offsets"]
            _fits(
                directory / f"{part}_offsets.npy", len(offsets) == count + 1 and offsets[0] == 0, f"{count + 1} offsets"
            )
            for name in values:
                _fits(directory / f"{name}.npy", len(arrays[name]) == offsets[-1], f"{offsets[-1]} values")
        return cls(**arrays, attributes=frame)

    def __len__(self) -> int:
        return len(self.user_ids)

    def lookup(self, user_id: int) -> UserState | None:
        """State of a user, None for one who is not here."""
        row = int(self.user_ids.searchsorted(user_id))
        if row == len(self.user_ids) or self.user_ids[row] != user_id:
            return None
        return self._state(row, self.attributes.row(row) if self.attributes.width else ())

    def __iter__(self) -> Iterator[tuple[int, UserState]]:
        rows = self.attributes.iter_rows() if self.attributes.width else iter([()] * len(self))
        for row, values in enumerate(rows):
            yield int(self.user_ids[row]), self._state(row, values)

    def _state(self, row: int, values: tuple[Any, ...]) -> UserState:
        history = slice(self.history_offsets[row], self.history_offsets[row + 1])
        seen = slice(self.seen_offsets[row], self.seen_offsets[row + 1])
        present = {name: v for name, v in zip(self.attributes.columns, values, strict=True) if not _is_missing(v)}
        return UserState(present, self.history_ids[history], self.history_ms[history], self.seen_ids[seen])


def write_users(
    directory: Path,
    *,
    interactions: Interactions,
    catalogue: Catalogue,
    users: pl.DataFrame,
    max_users: int = 1_000_000,
) -> list[Path]:
    """Writes the users/ folder of a bundle: `BundleUsers.gather`, then `save`; returns the files."""
    gathered = BundleUsers.gather(interactions=interactions, catalogue=catalogue, users=users, max_users=max_users)
    return gathered.save(directory)


def _most_recent(interactions: Interactions, count: int | None) -> Bools:
    """(U,) which users to keep: the `count` whose newest interaction is newest."""
    if count is None or len(interactions) <= count:
        return np.ones(len(interactions), np.bool_)
    newest = interactions.timestamps_ms[interactions.offsets[1:] - 1]
    chosen = np.zeros(len(interactions), np.bool_)
    chosen[np.argsort(-newest, kind="stable")[:count]] = True
    return chosen


def _newest(user_of: NDArray[np.int32], bound: int) -> Bools:
    """(T,) which interactions are among the `bound` newest of their user; users in ascending order."""
    ends = np.searchsorted(user_of, user_of, side="right")
    newest: Bools = ends - np.arange(len(user_of)) <= bound
    return newest


def _newest_seen(user_of: NDArray[np.int32], rows: Rows) -> Bools:
    """(T,) which interactions are the last of their user with an item, and among the newest MAX_SEEN such."""
    widest = int(rows.max(initial=0)) + 1
    keep = pl.Series(user_of * np.int64(widest) + rows).is_last_distinct().to_numpy().copy()
    keep[keep] = _newest(user_of[keep], MAX_SEEN)
    return keep


def _blocks(offsets: Offsets) -> Iterator[slice]:
    """Slices of interactions of whole users, about _BLOCK each."""
    user = 0
    while user < len(offsets) - 1:
        stop = max(int(offsets.searchsorted(offsets[user] + _BLOCK, side="right")) - 1, user + 1)
        yield slice(int(offsets[user]), int(offsets[stop]))
        user = stop


def _offsets_at(user_of: NDArray[np.int32], at: NDArray[np.intp], count: int) -> Offsets:
    """Offsets of `count` users, of whom the u-th active one is the `at[u]`-th."""
    lengths = np.zeros(count, np.int64)
    lengths[at] = np.bincount(user_of, minlength=len(at))
    return offsets_of(lengths)


def _attributes_of(user_ids: Ids, users: pl.DataFrame) -> pl.DataFrame:
    """Rows of `users` for the ids, all null for an id that it lacks, as values that JSON can hold.

    Dates become milliseconds since 1970, categories text, decimals floats; columns of other kinds
    (structures, bytes, durations) are left out, since no feature can be made of them.
    """
    columns = [
        expression
        for name, dtype in users.schema.items()
        if name != USER_ID and (expression := _plain(pl.col(name), dtype)) is not None
    ]
    wanted = pl.DataFrame({USER_ID: user_ids})
    return wanted.join(users.select(USER_ID, *columns), on=USER_ID, how="left", maintain_order="left").drop(USER_ID)


def _plain(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    if inner.is_integer() or inner.is_float() or inner in (pl.Boolean, pl.String):
        return column
    if dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("ms")).cast(pl.Int64)
    if inner in (pl.Categorical, pl.Enum):
        return column.cast(pl.List(pl.String) if isinstance(dtype, pl.List) else pl.String)
    return column.cast(pl.Float64) if dtype.is_decimal() else None


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _mapped(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from None
    # A plain view: slicing an np.memmap is several times slower.
    return np.asarray(array.view(np.ndarray))


def _fits(path: Path, right: bool, expected: str) -> None:
    if not right:
        raise BundleError(f"{path} does not hold the {expected} that its neighbours say")

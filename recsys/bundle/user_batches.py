"""Users of a bundle as batches: the state that a server with a fresh store would find, in the bundle's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from recsys.bundle.bundle import Bundle
from recsys.types import Bools, Ids, Offsets, RaggedRows, Users, offsets_of


def users_of(bundle: Bundle, user_ids: Ids, *, exclude_seen: bool = True) -> Users:
    """B users as the cascade sees them; one whom the bundle does not know has an id and nothing else.

    Args:
        bundle: its users/ gives attributes, histories and seen items.
        user_ids: (B,).
        exclude_seen: whether items of the history and of the seen set must not come back.
    """
    known = bundle.users
    place, here = _places(known.user_ids, user_ids)
    history = _rows(bundle, known.history_ids, known.history_offsets, place, here)
    excluded = RaggedRows.empty(len(user_ids))
    if exclude_seen:
        seen = _rows(bundle, known.seen_ids, known.seen_offsets, place, here)
        excluded = _union(history, seen, len(bundle.catalogue))
    attributes = _attributes(known.attributes, place, here)
    return Users(user_ids, np.ones(len(user_ids), np.bool_), attributes, history, excluded)


def slices(offsets: Offsets, chosen: Ids) -> tuple[Ids, Offsets]:
    """Positions of the values of some of several lists that lie end to end, and the chosen lists' own offsets.

    Args:
        offsets: (L+1,) where the lists begin and end.
        chosen: (B,) which lists, in the order wanted.
    """
    lengths = np.diff(offsets)[chosen]
    new = offsets_of(lengths)
    return np.arange(new[-1]) + np.repeat(offsets[:-1][chosen] - new[:-1], lengths), new


def _places(there: Ids, wanted: Ids) -> tuple[Ids, Bools]:
    """Where each wanted id stands among ascending ones (0 where it does not), and whether it does."""
    if not len(there):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    place = np.minimum(there.searchsorted(wanted), len(there) - 1)
    here: Bools = there[place] == wanted
    return np.where(here, place, 0), here


def _rows(bundle: Bundle, ids: Ids, offsets: Offsets, place: Ids, here: Bools) -> RaggedRows:
    """The users' lists of item ids as rows; ids that the catalogue lacks are left out."""
    at, new = slices(offsets, place[here])
    rows = bundle.catalogue.rows_of(ids[at])
    kept = rows >= 0
    lengths = np.zeros(len(here), np.int64)
    lengths[here] = np.diff(np.concatenate(([0], np.cumsum(kept)))[new])
    return RaggedRows(rows[kept], offsets_of(lengths))


def _union(one: RaggedRows, other: RaggedRows, items: int) -> RaggedRows:
    """Each user's rows of both lists, every row once."""
    cells = np.concatenate([_cells(one, items), _cells(other, items)])
    cells.sort()  # np.unique hashes first, which takes seventy times as long
    if len(cells):
        cells = cells[np.concatenate(([True], cells[1:] != cells[:-1]))]
    edges = cells.searchsorted(np.arange(len(one) + 1, dtype=np.int64) * items)
    return RaggedRows((cells % items).astype(np.int32), edges)


def _cells(lists: RaggedRows, items: int) -> Ids:
    return np.repeat(np.arange(len(lists), dtype=np.int64) * items, lists.lengths) + lists.values


def _attributes(frame: pl.DataFrame, place: Ids, here: Bools) -> Mapping[str, Sequence[Any]]:
    at = pl.Series(place).set(pl.Series(~here), None)
    chosen = {name: frame[name].gather(at) for name in frame.columns}
    return {name: (c.fill_nan(None) if c.dtype.is_float() else c).to_list() for name, c in chosen.items()}

"""Who interacted with what, in order: sequences of catalogue rows a user, and the events to predict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import EVENT, EVENT_ID, ITEM_ID, POSITIVE_EVENTS, TIMESTAMP_MS, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.types import Bools, Ids, Offsets, RaggedRows, RowMask, Rows, Users, offsets_of


def positives(events: pl.LazyFrame) -> pl.LazyFrame:
    """The events that make a history: clicks and conversions."""
    return events.filter(pl.col(EVENT).cast(pl.String).is_in([kind.value for kind in POSITIVE_EVENTS]))


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Clicks and conversions of U users as one CSR structure.

    Attributes:
        user_ids: (U,) int64, ascending; every user has at least one interaction.
        offsets: (U+1,) int64.
        rows: (T,) int32 catalogue rows, oldest to newest within a user.
        timestamps_ms: (T,) int64, aligned with `rows`.
    """

    user_ids: Ids
    offsets: Offsets
    rows: Rows
    timestamps_ms: Ids

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def size(self) -> int:
        """T, the number of interactions."""
        return len(self.rows)

    @property
    def lengths(self) -> Offsets:
        """(U,) interactions of each user."""
        return np.diff(self.offsets)

    def of(self, user: int) -> Rows:
        """Rows of the user at index `user`, oldest to newest."""
        return self.rows[self.offsets[user] : self.offsets[user + 1]]

    def user_of(self) -> NDArray[np.int32]:
        """(T,) the user index of each interaction."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.lengths)

    def ragged(self) -> RaggedRows:
        """The sequences as lists of rows."""
        return RaggedRows(self.rows, self.offsets)

    def where(self, keep: NDArray[np.bool_]) -> Interactions:
        """The interactions that `keep` (T,) marks; users left with none are dropped."""
        lengths = np.bincount(self.user_of()[keep], minlength=len(self))
        present = lengths > 0
        return Interactions(
            self.user_ids[present], offsets_of(lengths[present]), self.rows[keep], self.timestamps_ms[keep]
        )

    def first_occurrence(self) -> Bools:
        """(T,) whether the user meets the item for the first time."""
        widest = int(self.rows.max(initial=0)) + 1
        return pl.Series(self.user_of() * np.int64(widest) + self.rows).is_first_distinct().to_numpy()

    @classmethod
    def from_events(cls, events: pl.LazyFrame | pl.DataFrame, catalogue: Catalogue) -> Interactions:
        """Sequences of the clicks and conversions in `events`, ordered by (timestamp_ms, event_id).

        Events of items outside the catalogue are left out.
        """
        frame = (
            positives(events.lazy())
            .select(USER_ID, ITEM_ID, TIMESTAMP_MS, EVENT_ID)
            .sort(USER_ID, TIMESTAMP_MS, EVENT_ID)
            .collect()
        )
        rows = catalogue.rows_of(frame[ITEM_ID].to_numpy())
        known = rows >= 0
        users = frame[USER_ID].to_numpy()[known]
        times = frame[TIMESTAMP_MS].to_numpy()[known]
        starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]])) if len(users) else np.empty(0, int)
        return cls(users[starts], np.append(starts, len(users)).astype(np.int64), rows[known], times)


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationSet:
    """M events to predict, each with the history before it.

    Attributes:
        sequences: full sequences of the users (train, validation and test).
        user: (M,) int32 index into `sequences`.
        history_end: (M,) int32, how many of the user's oldest interactions may be used.
        target: (M,) int32 catalogue row that was chosen next.
        eligible: rows the protocol allows as candidates, None for all.
        dropped: targets left out because they are not eligible.
        repeated: targets left out because the user already had the item, which is never recommended.
    """

    sequences: Interactions
    user: NDArray[np.int32]
    history_end: NDArray[np.int32]
    target: Rows
    eligible: RowMask | None = None
    dropped: int = 0
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.target)

    @property
    def user_ids(self) -> Ids:
        """(M,) id of the user of each target."""
        return self.sequences.user_ids[self.user]

    @property
    def times_ms(self) -> Ids:
        """(M,) when each target was chosen."""
        times: Ids = self.sequences.timestamps_ms[self.sequences.offsets[self.user] + self.history_end]
        return times

    def users(self, start: int, stop: int, attributes: pl.DataFrame | None = None) -> Users:
        """Targets start…stop-1 as a batch of users: history = excluded = what came before the target.

        Args:
            start: first target.
            stop: one past the last target.
            attributes: user_id and attribute columns; users that are not in it have none.
        """
        user = self.user[start:stop]
        ids = self.sequences.user_ids[user]
        history = _prefixes(self.sequences, user, self.history_end[start:stop])
        return Users(
            ids=ids,
            known=np.ones(len(ids), np.bool_),
            attributes={} if attributes is None else attribute_columns(attributes, ids),
            history=history,
            excluded=history,
        )


def attribute_columns(attributes: pl.DataFrame, ids: Ids) -> dict[str, list[object]]:
    """Attribute columns for users in the order of `ids`, None where there is no such user.

    Args:
        attributes: user_id (each once) and attributes; fastest when sorted by user_id.
        ids: (B,) int64.
    """
    names = [name for name in attributes.columns if name != USER_ID]
    if not names or not attributes.height:
        return {name: [None] * len(ids) for name in names}
    if not attributes[USER_ID].is_sorted():
        attributes = attributes.sort(USER_ID)
    known = attributes[USER_ID].to_numpy()
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    index = pl.Series(np.where(known[at] == ids, at, -1)).replace(-1, None)
    return attributes.select(pl.col(names).gather(index)).to_dict(as_series=False)


def _prefixes(sequences: Interactions, user: NDArray[np.int32], lengths: NDArray[np.int32]) -> RaggedRows:
    """The oldest `lengths[m]` rows of user `user[m]`, for every m."""
    offsets = offsets_of(lengths)
    shift = np.repeat(sequences.offsets[user] - offsets[:-1], lengths)
    return RaggedRows(sequences.rows[np.arange(offsets[-1]) + shift], offsets)

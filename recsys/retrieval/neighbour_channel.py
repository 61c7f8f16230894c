"""Retrieval by neighbours: every item of the history votes for the items most similar to it (ItemKNN)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DataError
from recsys.features.online import OnlineEncoder
from recsys.files import replacing
from recsys.index.engine import is_member
from recsys.types import Bools, Candidates, Deadline, Floats, RaggedRows, RowMask, Rows, Users, offsets_of

OFFSETS: Final = "offsets.npy"
NEIGHBOURS: Final = "neighbours.npy"
SIMILARITIES: Final = "similarities.npy"

_VOTES_A_BLOCK: Final = 4_000_000


class NeighbourChannel:
    """Channel that sums the similarities between a user's history and every other item.

    The item-based k-nearest-neighbour method of Sarwar et al., "Item-based collaborative filtering
    recommendation algorithms" (WWW 2001), §3.2; with decay < 1 a vote counts decay^(age - 1), where
    the newest item of the history has age 1. A user without history gets nothing.

    Args:
        name: what requests call it.
        neighbours: N lists of rows, each the neighbours of one catalogue row.
        similarities: aligned with `neighbours.values`, finite.
        history: the newest so many items vote; None = all.
        decay: in (0, 1].
    """

    def __init__(
        self,
        name: str,
        neighbours: RaggedRows,
        similarities: Floats,
        history: int | None = None,
        decay: float = 1.0,
    ) -> None:
        if similarities.shape != neighbours.values.shape or not np.isfinite(similarities).all():
            raise DataError(f"{name}: one finite similarity a neighbour is needed, not {similarities.shape}")
        if not 0 < decay <= 1 or (history is not None and history < 1):
            raise DataError(f"{name}: history = {history!r} must be at least 1 and decay = {decay!r} in (0, 1]")
        self._name = name
        self._neighbours = neighbours
        self._lengths = neighbours.lengths
        self._similarities = similarities
        self._history = history
        self._decay = decay

    @staticmethod
    def save(directory: Path, neighbours: RaggedRows, similarities: Floats) -> None:
        """Writes the component's files into `directory`."""
        for file_name, array in (
            (OFFSETS, neighbours.offsets.astype(np.int64)),
            (NEIGHBOURS, neighbours.values.astype(np.int32)),
            (SIMILARITIES, similarities.astype(np.float32)),
        ):
            with replacing(directory / file_name) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)

    @classmethod
    def open(
        cls,
        name: str,
        directory: Path,
        options: Mapping[str, Any],
        catalogue: Catalogue,
        encoder: OnlineEncoder,
    ) -> NeighbourChannel:
        """Opens a component of type "neighbours": `offsets.npy`, `neighbours.npy`, `similarities.npy`.

        Options: `history` and `decay` as in the class.

        Raises:
            BundleError: names the file that is missing, truncated or does not fit the others.
        """
        offsets, rows, similarities = (_map(directory / file) for file in (OFFSETS, NEIGHBOURS, SIMILARITIES))
        count = len(catalogue)
        if offsets.shape != (count + 1,) or offsets[-1] != len(rows) or (np.diff(offsets) < 0).any():
            raise BundleError(f"{directory / OFFSETS}: does not divide {len(rows)} neighbours among {count} items")
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise BundleError(f"{directory / NEIGHBOURS}: holds rows outside the catalogue of {count} items")
        if similarities.shape != rows.shape:
            raise BundleError(f"{directory / SIMILARITIES}: holds {similarities.shape}, {NEIGHBOURS} {rows.shape}")
        history, decay = options.get("history"), options.get("decay", 1.0)
        return cls(name, RaggedRows(rows, offsets), similarities, history, decay)

    @property
    def name(self) -> str:
        """What requests, reports and bundles call it."""
        return self._name

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        """See `Channel.recall`."""
        mask = None if allowed is None else allowed.allowed
        rows: list[Rows] = []
        scores: list[Floats] = []
        for start, stop in self._blocks(users):
            for b, (voted, votes) in enumerate(self._votes(users.slice(start, stop)), start):
                best = _best(voted, votes, k, mask, users.excluded[b])
                rows.append(voted[best])
                scores.append(votes[best])
        if not rows:
            return Candidates.empty(len(users))
        flat = np.concatenate(rows)
        counts = offsets_of([len(part) for part in rows])
        return Candidates(flat, np.concatenate(scores), np.ones(len(flat), np.uint32), counts)

    def _blocks(self, users: Users) -> list[tuple[int, int]]:
        """(start, stop) of users whose votes fit a block."""
        votes = np.concatenate(([0], np.cumsum(self._lengths[users.history.values])))[users.history.offsets]
        blocks, start = [], 0
        while start < len(users):
            stop = int(votes.searchsorted(votes[start] + _VOTES_A_BLOCK, side="right")) - 1
            stop = min(max(stop, start + 1), len(users))
            blocks.append((start, stop))
            start = stop
        return blocks

    def _votes(self, users: Users) -> list[tuple[Rows, Floats]]:
        """For each user the rows voted for, ascending, and the sum of their votes."""
        user, voter, weight = self._voters(users.history)
        counts = self._lengths[voter]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        if not total:
            return [(np.empty(0, np.int32), np.empty(0, np.float32))] * len(users)
        at = np.arange(total) + np.repeat(self._neighbours.offsets[voter] - (ends - counts), counts)
        keys = (np.repeat(user, counts) << 32) | self._neighbours.values[at]
        order = np.argsort(keys)  # not the stable sort, which takes five times as long
        keys = keys[order]
        firsts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        votes = self._similarities[at] * np.repeat(weight, counts)
        sums = np.add.reduceat(votes[order], firsts, dtype=np.float64).astype(np.float32)
        keys = keys[firsts]
        edges = keys.searchsorted(np.arange(len(users) + 1, dtype=np.int64) << 32)
        rows = (keys & 0xFFFFFFFF).astype(np.int32)
        return [(rows[edges[b] : edges[b + 1]], sums[edges[b] : edges[b + 1]]) for b in range(len(users))]

    def _voters(self, history: RaggedRows) -> tuple[NDArray[np.int64], Rows, Floats]:
        """User, row and weight of every history item that votes."""
        user = np.repeat(np.arange(len(history), dtype=np.int64), history.lengths)
        age = history.offsets[1:][user] - np.arange(len(history.values))
        weight = np.power(np.float32(self._decay), age - 1, dtype=np.float32)
        if self._history is None:
            return user, history.values, weight
        newest = age <= self._history
        return user[newest], history.values[newest], weight[newest]


def _best(rows: Rows, votes: Floats, k: int, allowed: Bools | None, excluded: Rows) -> NDArray[np.int64]:
    """Positions of the k best eligible rows, by (votes descending, row ascending)."""
    eligible = ~is_member(rows, excluded)
    if allowed is not None:
        eligible &= allowed[rows]
    positions = np.flatnonzero(eligible)
    return positions[np.argsort(-votes[positions], kind="stable")[:k]]


def _map(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        try:
            array = np.load(path, allow_pickle=False)  # an array of no elements cannot be mapped
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{path}: missing or truncated ({error})") from None
    return np.asarray(array)

"""Retrieval by neighbours: every item of the history votes for the items that count it as similar (ItemKNN)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DataError
from recsys.features.online import OnlineEncoder
from recsys.files import replacing
from recsys.index.engine import is_member
from recsys.index.ordering import best_first
from recsys.types import Candidates, Deadline, Floats, Offsets, RaggedRows, RowMask, Rows, Users, offsets_of

OFFSETS: Final = "offsets.npy"
NEIGHBOURS: Final = "neighbours.npy"
SIMILARITIES: Final = "similarities.npy"

_VOTES_A_BLOCK: Final = 64_000
"""Arrays of so many numbers stay in the caches."""
_CELLS_A_VOTE: Final = 4
"""Below so many (user, row) cells a vote, counting in a table of all cells is faster than sorting the votes."""


class NeighbourChannel:
    """Channel that sums, for every candidate, the votes of the history's items for it.

    With the lists of `recsys.recipes.item_knn` a candidate's votes come from those of its own k
    nearest neighbours that the history holds: the item-based method of Sarwar et al., "Item-based
    collaborative filtering recommendation algorithms" (WWW 2001), §3.2.1. With decay < 1 a vote
    counts decay^(age - 1), where the newest item of the history has age 1. A user without history
    gets nothing.

    Args:
        name: what requests call it.
        voted_for: N lists of rows, those that each catalogue row votes for.
        similarities: the weights of the votes, aligned with `voted_for.values`; finite, above 0.
        history: the newest so many items vote; None = all.
        decay: in (0, 1].
    """

    def __init__(
        self,
        name: str,
        voted_for: RaggedRows,
        similarities: Floats,
        history: int | None = None,
        decay: float = 1.0,
    ) -> None:
        if similarities.shape != voted_for.values.shape:
            raise DataError(f"{name}: one similarity a vote is needed, not {similarities.shape}")
        if not (np.isfinite(similarities) & (similarities > 0)).all():
            raise DataError(f"{name}: similarities must be finite and above 0")
        if not 0 < decay <= 1 or (history is not None and history < 1):
            raise DataError(f"{name}: history = {history!r} must be at least 1 and decay = {decay!r} in (0, 1]")
        self._name = name
        self._voted_for = voted_for
        self._lengths = voted_for.lengths
        self._rows = np.arange(len(voted_for), dtype=np.int32)
        self._similarities = similarities
        self._history = history
        self._decay = decay

    @staticmethod
    def save(directory: Path, voted_for: RaggedRows, similarities: Floats) -> None:
        """Writes the component's files into `directory`."""
        for file_name, array in (
            (OFFSETS, voted_for.offsets.astype(np.int64)),
            (NEIGHBOURS, voted_for.values.astype(np.int32)),
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
            raise BundleError(f"{directory / OFFSETS}: does not divide {len(rows)} votes among {count} items")
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
            for voted, votes in self._votes(users.slice(start, stop)):
                best = _best(votes if mask is None else votes * mask[voted], k)
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
        """For each user some rows, ascending, and the sum of their votes: 0 for what the user may not have."""
        user, voter, weight = self._voters(users.history)
        counts = self._lengths[voter]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        at = np.arange(total) + np.repeat(self._voted_for.offsets[voter] - (ends - counts), counts)
        size = len(self._lengths)
        cells = np.repeat(user * size, counts) + self._voted_for.values[at]
        votes = self._similarities[at]
        if self._decay < 1:
            votes = votes * np.repeat(weight, counts)
        if len(users) * size <= _CELLS_A_VOTE * total:
            return self._tabled(cells, votes, users.excluded)
        cells, sums = _summed(cells, votes)
        edges = cells.searchsorted(np.arange(len(users) + 1, dtype=np.int64) * size)
        found = []
        for b, (low, high) in enumerate(pairwise(edges)):
            rows = (cells[low:high] - b * size).astype(np.int32)
            found.append((rows, np.where(is_member(rows, users.excluded[b]), np.float32(0), sums[low:high])))
        return found

    def _tabled(self, cells: Offsets, votes: Floats, excluded: RaggedRows) -> list[tuple[Rows, Floats]]:
        """As `_votes`, of all rows."""
        size = len(self._lengths)
        table = np.bincount(cells, votes, minlength=len(excluded) * size).astype(np.float32).reshape(-1, size)
        table[np.repeat(np.arange(len(excluded)), excluded.lengths), excluded.values] = 0
        return [(self._rows, sums) for sums in table]

    def _voters(self, history: RaggedRows) -> tuple[NDArray[np.int64], Rows, Floats]:
        """User, row and weight of every history item that votes."""
        user = np.repeat(np.arange(len(history), dtype=np.int64), history.lengths)
        age = history.offsets[1:][user] - np.arange(len(history.values))
        weight = np.power(np.float32(self._decay), age - 1, dtype=np.float32)
        if self._history is None:
            return user, history.values, weight
        newest = age <= self._history
        return user[newest], history.values[newest], weight[newest]


def _summed(cells: Offsets, votes: Floats) -> tuple[Offsets, Floats]:
    """The different cells, ascending, and the sum of the votes of each."""
    if not len(cells):
        return cells, votes
    order = np.argsort(cells)  # not the stable sort, which takes five times as long
    cells = cells[order]
    firsts = np.flatnonzero(np.concatenate(([True], cells[1:] != cells[:-1])))
    return cells[firsts], np.add.reduceat(votes[order], firsts, dtype=np.float64).astype(np.float32)


def _best(votes: Floats, k: int) -> NDArray[np.int64]:
    """Positions of the k best votes above 0, by (votes descending, position ascending)."""
    positions = np.flatnonzero(votes > 0)
    return positions[best_first(votes[positions])[:k]]


def _map(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        try:
            array = np.load(path, allow_pickle=False)  # an array of no elements cannot be mapped
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{path}: missing or truncated ({error})") from None
    return np.asarray(array)

"""Retrieval by several interests: an item's score is the greatest that one of the user's interests gives it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DeadlineError
from recsys.features.online import OnlineEncoder
from recsys.index.vector_index import VectorIndex
from recsys.retrieval.user_tower import TOWER, UserTower
from recsys.retrieval.vector_channel import open_index
from recsys.types import Candidates, Deadline, Floats, Offsets, RowMask, Rows, Users, offsets_of

_OUTPUT: Final = "user_vectors"


class InterestsChannel:
    """Channel over a tower that makes K vectors a user, and one vector index.

    A user has K' = max(1, min(K, ⌊log2(history length)⌋)) interests (MIND, Li et al., CIKM 2019, §3.2); only those are
    searched, all of a batch's in one search. The tower repeats the first interest beyond them, so that the greatest of
    all K scores is that of the K'.

    Args:
        name: what requests call it.
        tower: makes (K, d) vectors a user.
        index: over the catalogue's rows.
        history_length: newest items that the model looks at.

    Raises:
        BundleError: when the tower makes one vector a user.
    """

    def __init__(self, name: str, tower: UserTower, index: VectorIndex, history_length: int) -> None:
        if len(tower.shape) != 2:
            raise BundleError(
                f"{name}: {TOWER} makes {tower.shape} numbers a user; a channel of interests takes several vectors"
            )
        self._name = name
        self._tower = tower
        self._index = index
        self._history_length = history_length

    @classmethod
    def open(
        cls,
        name: str,
        directory: Path,
        options: Mapping[str, Any],
        catalogue: Catalogue,
        encoder: OnlineEncoder,
    ) -> InterestsChannel:
        """Opens a component of type "interests": `user_tower.onnx`, `history_vectors.npy`, `index/`.

        Options: those of `open_index`; `interests` (K) as a check; `history_length`, the newest items that the model
        looks at (all that the features keep when absent or null).

        Raises:
            BundleError: names the file or the option that is missing, unreadable or does not fit the others.
        """
        kept = encoder.features.history
        if kept is None:
            raise BundleError(f"{name}: interests come out of a history, which the feature set does not make")
        length = kept.length if options.get("history_length") is None else options["history_length"]
        if not isinstance(length, int) or length < 1:
            raise BundleError(f"{name}: history_length = {length!r} in component.json must be a number from 1 on")
        index = open_index(directory, options, catalogue)
        channel = cls(name, UserTower.open(name, directory, _OUTPUT, index, encoder), index, min(length, kept.length))
        if options.get("interests", channel.interests_at_most) != channel.interests_at_most:
            raise BundleError(
                f"{directory / TOWER}: makes {channel.interests_at_most} interests a user, "
                f"component.json says {options['interests']}"
            )
        return channel

    @property
    def name(self) -> str:
        """What requests, reports and bundles call it."""
        return self._name

    @property
    def tower(self) -> UserTower:
        """What makes the users' vectors."""
        return self._tower

    @property
    def index(self) -> VectorIndex:
        """The item vectors."""
        return self._index

    @property
    def interests_at_most(self) -> int:
        """K."""
        return self._tower.shape[0]

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        """See `Channel.recall`."""
        vectors, counts = self.interests(users)
        if deadline is not None and deadline.passed:
            raise DeadlineError(f"{self._name}: no time left after the user tower")
        queries = vectors[np.arange(self.interests_at_most) < counts[:, None]]
        excluded = users.excluded if len(users.excluded.values) else None
        return Candidates.from_matrix(*self._index.search_groups(queries, offsets_of(counts), k, allowed, excluded))

    def interests(self, users: Users) -> tuple[Floats, Offsets]:
        """(B, K, d) interests of the users as the index compares them, and (B,) how many of them each really has."""
        lengths = np.minimum(users.history.lengths, self._history_length).tolist()
        logarithms = [length.bit_length() - 1 for length in lengths]
        counts = [max(1, min(self.interests_at_most, logarithm)) for logarithm in logarithms]
        return self.user_vectors(users), np.array(counts, np.int64)

    def user_vectors(self, users: Users) -> Floats:
        """(B, K, d) interests of the users, as the index compares them (of length 1 for cosine)."""
        return self._tower.queries(users)

    def row_scores(self, rows: Rows, vector: Floats) -> Floats:
        """(M,) scores of catalogue rows for one user's (K, d) interests: the very bits that `recall` gives them."""
        return self._index.best_scores(rows, vector)

    def item_vectors(self, rows: Rows) -> Floats:
        """(M, d) vectors of catalogue rows, as the index holds them."""
        return self._index.vectors(rows)

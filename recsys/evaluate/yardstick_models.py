"""What yardsticks are once fitted: channels, or scores of the whole catalogue where they are dense anyway."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from recsys.index.vector_index import VectorIndex
from recsys.retrieval.channel import Channel
from recsys.types import Bools, Candidates, Deadline, Floats, RaggedRows, RowMask, Users


class ScoreModel(Protocol):
    """Scores every catalogue row for a batch of histories."""

    def scores(self, histories: RaggedRows) -> Floats:
        """(B, N) float32, higher is better; the caller masks what must not be recommended."""
        ...


YardstickModel: TypeAlias = Channel | ScoreModel


def binary(histories: RaggedRows, items: int) -> sparse.csr_matrix:
    """(B, N) 1 where a history holds the item, however often."""
    matrix = weighted(histories, np.ones(len(histories.values), np.float32), items)
    matrix.data[:] = 1.0
    return matrix


def weighted(histories: RaggedRows, weights: Floats, items: int) -> sparse.csr_matrix:
    """(B, N) sum of the weights of each item in a history."""
    parts = (weights, histories.values, histories.offsets)
    matrix = sparse.csr_matrix(parts, (len(histories), items), copy=True)  # what follows sorts in place
    matrix.sum_duplicates()
    return matrix


def ages(histories: RaggedRows) -> NDArray[np.int64]:
    """(T,) place of each event counted from the newest of its history, which is 0."""
    ends = np.repeat(histories.offsets[1:], histories.lengths)
    return ends - 1 - np.arange(len(histories.values))


def kept(histories: RaggedRows, keep: Bools) -> RaggedRows:
    """The histories with those of their events that `keep` (T,) marks."""
    before = np.concatenate(([0], np.cumsum(keep)))
    return RaggedRows(histories.values[keep], before[histories.offsets])


@dataclass(frozen=True, eq=False)
class LinearScores:
    """History times a dense weight matrix: EASE.

    Attributes:
        weights: (N, N); row i holds what having item i adds to every other.
        decay: an item of age a counts decay^a; 1 ignores order.
    """

    weights: Floats
    decay: float = 1.0

    def scores(self, histories: RaggedRows) -> Floats:
        """(B, N) float32."""
        items = len(self.weights)
        if self.decay == 1.0:
            matrix = binary(histories, items)
        else:
            matrix = weighted(histories, (self.decay ** ages(histories)).astype(np.float32), items)
        return np.asarray(matrix @ self.weights, np.float32)


@dataclass(frozen=True, eq=False)
class OfDistinctItems:
    """A channel that is told each item of a history once, however often the user chose it.

    Attributes:
        channel: what answers.
    """

    channel: Channel

    @property
    def name(self) -> str:
        """Of the channel."""
        return self.channel.name

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        """See `Channel.recall`."""
        history = users.history
        user = np.repeat(np.arange(len(history), dtype=np.int64), history.lengths)
        first = pl.Series((user << 32) + history.values).is_first_distinct().to_numpy()
        return self.channel.recall(replace(users, history=kept(history, first)), k, allowed, deadline)


@dataclass(frozen=True, eq=False)
class FactorSearch:
    """Matrix factorisation that solves for the user's vector from the history it is given (no stored user).

    Attributes:
        name: of the yardstick.
        model: a fitted `implicit` AlternatingLeastSquares.
        index: exact, over its item vectors.
    """

    name: str
    model: Any
    index: VectorIndex

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        """See `Channel.recall`."""
        matrix = binary(users.history, len(self.index))
        vectors: Floats = self.model.recalculate_user(np.arange(len(users)), matrix)
        return Candidates.from_matrix(*self.index.search(vectors, k, allowed, users.excluded))

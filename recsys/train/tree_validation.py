"""Full-catalogue validation of a tree retriever: every leaf scored, as a beam as wide as the tree would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.models.tdm import Tdm
from recsys.train.validation import ITEMS_AT_ONCE, USERS_AT_ONCE, RankingValidator, TileScores


@dataclass(frozen=True, slots=True)
class _Users:
    """A block of U users.

    Attributes:
        vectors: (U, d_out).
        behaviours: (U, L, d) the newest, without bias.
        age: (U, L), 1 = newest, 0 = none.
    """

    vectors: Tensor
    behaviours: Tensor
    age: Tensor


class TreeValidator:
    """HR@k and NDCG@k of a tree retriever's scores, whatever its beam then finds of them.

    Attention costs about a hundred times a product, so that a sample of a few thousand targets is enough to choose an
    epoch by.

    Args:
        targets: where they are and how they are ranked.
    """

    def __init__(self, targets: RankingValidator) -> None:
        self.targets = targets

    @torch.no_grad()
    def __call__(self, model: Tdm, cutoff: int = 10) -> Mapping[str, float]:
        """Metrics of the model, put in evaluation mode by the caller; the same on every worker."""
        return self.targets.metrics(self.ranks(model), cutoff)

    @torch.no_grad()
    def ranks(self, model: Tdm) -> NDArray[np.int64]:
        """(M,) as `RankingValidator.ranks`."""
        items = model.users.items
        return self.targets.ranks_by(
            _TreeScores(model), self._users(model), lambda: items.catalogue_blocks(ITEMS_AT_ONCE)
        )

    def _users(self, model: Tdm) -> list[_Users]:
        vectors = self.targets.user_vectors(model.users)[:, 0]
        rows, age = self._newest(model.attention.attended)
        age = age.masked_fill(model.tree.leaves.cpu()[rows] < 0, 0)
        met, place = torch.unique(rows, return_inverse=True)
        states = model.bare(model.users.items(met.to(vectors.device))[1])
        parts = zip(*(torch.split(part, USERS_AT_ONCE) for part in (vectors, place, age)), strict=True)
        return [_Users(mine, states[at], of_age) for mine, at, of_age in parts]

    def _newest(self, attended: int) -> tuple[Tensor, Tensor]:
        """(M, L) the newest behaviours of each target's user, the newest first, and their ages; 0 = none."""
        history, order = self.targets.history, self.targets.by_target
        ages = np.arange(1, attended + 1)
        there = ages <= history.lengths[order, None]
        place = np.where(there, history.offsets[order + 1, None] - ages, 0)
        rows = history.values[place] if len(history.values) else np.zeros(place.shape)
        return torch.from_numpy(np.where(there, rows, 0).astype(np.int64)), torch.from_numpy(np.where(there, ages, 0))


class _TreeScores(TileScores[_Users]):
    """e_u·n + A_u(n), one user after the other: what a user makes of a tile stays in the cache."""

    def __init__(self, model: Tdm) -> None:
        super().__init__(model.inner.weight)
        self.model = model

    def scores(self, users: _Users, items: Tensor) -> Tensor:
        """See `TileScores.scores`."""
        scores = self.room(len(users.vectors), len(items))
        for u in range(len(scores)):
            one = slice(u, u + 1)
            scores[one] = self.model.newest_scores(users.vectors[one], users.behaviours[one], users.age[one], items)
        return scores

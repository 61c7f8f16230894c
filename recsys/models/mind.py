"""MIND: a user is several interests, and an item scores what the nearest of them gives it (arXiv 1904.08030).

Behaviours enter as item and age. Routing gathers them into capsules, one an interest; an interest is what one MLP,
shared by all, makes of its capsule, the user's attributes, and means of the history that favour the newest
behaviours: capsules alone know neither order nor recency. One item tower serves histories, targets and the index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from recsys.models.layers.capsules import InterestCapsules, Routing
from recsys.models.layers.dropout import Dropout
from recsys.models.layers.recency import RecencyMixer, RecencyProfiles, by_age, prefix_ages
from recsys.models.losses.label_aware import label_aware
from recsys.models.losses.softmax import Credit
from recsys.models.retriever import Retriever, RetrieverShape
from recsys.models.sequence_batch import SequenceBatch

MindCredit: TypeAlias = Credit | Literal["label"]

_DECAY = 0.05
"""How much less a behaviour one older starts to count in a capsule, in nats."""


@dataclass(frozen=True)
class MindShape(RetrieverShape):
    """Sizes and choices of MIND.

    Attributes:
        interests: K, the most a user has; a history of n items has min(K, ⌊log2(n)⌋), and at least one.
        routing: how routing logits follow the interests (see `InterestCapsules`).
        iterations: of the routing.
        profiles: means of the history that every interest is told.
        widening: inner width of the shared MLP over `dim`.
        credit: which interests a target trains: all that score it high ("logsumexp", a soft maximum), the one that
            scores it highest ("max", what is served), or, with the softmax over that alone, "label": the interests
            mixed by how well they suit the target (see `label_aware`).
        power: of "label"; None = the interest that suits best alone.
    """

    interests: int = 4
    routing: Routing = "cosine"
    iterations: int = 3
    profiles: int = 4
    widening: int = 4
    credit: MindCredit = "logsumexp"
    power: float | None = None


class Mind(Retriever):
    """Capsules, profiles of recency and the MLP that makes interests of them.

    Args:
        shape: sizes.
        item_index: (N,) item-id code of every catalogue row.
        items: encoded attributes of every catalogue row by field.
    """

    name = "mind"
    reads_history = True

    def __init__(self, shape: MindShape, item_index: Tensor, items: Mapping[str, Tensor]) -> None:
        super().__init__(shape, item_index, items)
        self._shape = shape
        self.drop = Dropout(shape.dropout)
        self.capsules = InterestCapsules(shape.dim, shape.interests, shape.iterations, shape.routing)
        self.decay = nn.Parameter(-_DECAY * torch.arange(shape.history_length + 1)[:, None])
        self.profiles = RecencyProfiles(shape.dim, shape.history_length, shape.profiles)
        attributes = (len(shape.user_fields) * shape.dim,) if shape.user_fields else ()
        self.mixer = RecencyMixer(shape.dim, shape.profiles, (shape.dim, *attributes), shape.widening, shape.dropout)

    @property
    def shape(self) -> MindShape:
        """See `Retriever.shape`."""
        return self._shape

    @property
    def interests(self) -> int:
        """K."""
        return self.shape.interests

    @property
    def credit(self) -> Credit:
        """See `Retriever.credit`."""
        return "max" if self.shape.credit == "max" else "logsumexp"

    def user_states(self, history: Tensor, user: Mapping[str, Tensor], places: Tensor | None = None) -> Tensor:
        """See `Retriever.user_states`: (B, P, K, d)."""
        length = history.shape[1]
        places = torch.arange(length + 1, device=history.device) if places is None else places
        return self._interests(history, prefix_ages(places, length), user)

    def states_after(self, history: Tensor, length: Tensor, user: Mapping[str, Tensor]) -> Tensor:
        """See `Retriever.states_after`: (B, K, d)."""
        age = prefix_ages(length, history.shape[1])[0]
        return self._interests(history, age[:, None], user)[:, 0]

    def newest_user_states(self, vectors: Tensor | None, age: Tensor | None, user: Mapping[str, Tensor]) -> Tensor:
        """See `Retriever.newest_user_states`: (B, K, d), whatever the order of the behaviours."""
        assert vectors is not None
        assert age is not None
        newest = self.shape.history_length
        return self._interests(vectors[:, -newest:], age[:, None, -newest:], user)[:, 0]

    def for_targets(self, users: Tensor, positives: Tensor) -> Tensor:
        """See `Retriever.for_targets`."""
        return label_aware(users, positives, self.shape.power) if self.shape.credit == "label" else users

    def field_weights(self, batch: SequenceBatch) -> dict[str, dict[str, float]]:
        """See `Retriever.field_weights`; the user's attributes enter an MLP as they are."""
        weights = self.items.field_weights()
        return {"item": weights} if weights else {}

    def _interests(self, vectors: Tensor, age: Tensor, user: Mapping[str, Tensor]) -> Tensor:
        """Interests at T places: item states (B, L, d) and ages (B or 1, T, L), 0 = not there → (B, T, K, d).

        Those beyond K' are the first once more.
        """
        vectors = self.drop(vectors)
        counts = by_age(age, self.decay)[..., 0].exp()
        capsules, there = self.capsules(vectors, counts, (age > 0).sum(dim=-1))
        others = [capsules]
        attributes = self.user_attributes(user)
        if attributes is not None:
            others.append(attributes.flatten(1)[:, None, None])
        found = self.mixer(self.profiles(vectors, age).unsqueeze(2), *others)
        return torch.where(there.unsqueeze(-1), found, found[:, :, :1])

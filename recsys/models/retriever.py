"""What training, validation and export ask of a retriever: an item tower, and user vectors after every step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.feature_set import Field
from recsys.models.item_tower import ItemShape, ItemTower
from recsys.models.layers.fields import FieldEmbeddings
from recsys.models.losses.softmax import Credit
from recsys.models.sequence_batch import SequenceBatch

_COLDEST: Final = 0.01


@dataclass(frozen=True)
class RetrieverShape(ItemShape):
    """Sizes and choices that the weights of a retriever depend on.

    Attributes:
        user_fields: attribute fields of the user.
        history_length: newest items looked at.
        temperature: where the learned temperature starts ("cosine" only).
    """

    user_fields: tuple[Field, ...] = ()
    history_length: int = 200
    temperature: float = 0.07


class Retriever(nn.Module, ABC):
    """A user is one vector or several; what an item scores is the largest product with one of them.

    Where a user has K vectors, all tensors of user states and vectors have a K axis before the last. A user with
    fewer interests than K repeats the first, so that no mask is needed anywhere.

    Args:
        shape: sizes.
        item_index: (N,) item-id code of every catalogue row.
        items: encoded attributes of every catalogue row by field.
    """

    name: ClassVar[str]
    """Of the recipe and the channel."""

    def __init__(self, shape: RetrieverShape, item_index: Tensor, items: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.items = ItemTower(shape, item_index, items)
        self.user_fields = FieldEmbeddings(shape.user_fields, shape.dim) if shape.user_fields else None
        self.log_scale = nn.Parameter(torch.tensor(1.0 / shape.temperature).log())

    @property
    @abstractmethod
    def shape(self) -> RetrieverShape:
        """Sizes."""

    @property
    @abstractmethod
    def reads_history(self) -> bool:
        """Whether a user's vectors depend on the history."""

    @property
    def interests(self) -> int | None:
        """K; None for one vector a user, without an axis of its own."""
        return None

    @property
    def credit(self) -> Credit:
        """How several vectors share an item's logit in training."""
        return "logsumexp"

    @abstractmethod
    def user_states(self, history: Tensor, user: Mapping[str, Tensor], places: Tensor | None = None) -> Tensor:
        """Item states of right-padded histories (B, L, d) and user codes → (B, P, [K,] d), after prefixes.

        Args:
            history: (B, L, d).
            user: codes of the user attributes.
            places: (P,) lengths of the prefixes; None = all from 0 to L.
        """

    @abstractmethod
    def newest_user_states(self, vectors: Tensor | None, age: Tensor | None, user: Mapping[str, Tensor]) -> Tensor:
        """As `user_states` after the whole history, the way it is served.

        Args:
            vectors: (B, L, d) item states, left-padded; None for a model that reads no history.
            age: (B, L), 1 = newest, 0 = padding.
            user: codes of the user attributes.

        Returns:
            (B, [K,] d).
        """

    def states_after(self, history: Tensor, length: Tensor, user: Mapping[str, Tensor]) -> Tensor:
        """As `user_states`, after the first `length` (B,) items of right-padded histories alone: (B, [K,] d)."""
        return self.user_states(history, user)[torch.arange(len(length), device=length.device), length]

    @abstractmethod
    def field_weights(self, batch: SequenceBatch) -> dict[str, dict[str, float]]:
        """Mean SENet weight of each field, by tower, over a batch and a sample of the catalogue."""

    def user_vectors(self, states: Tensor) -> Tensor:
        """User states (…, d) → (…, d_out) vectors whose product with an item vector is the served score."""
        if self.shape.similarity == "cosine":
            return F.normalize(states, dim=-1)
        return torch.cat([states, torch.ones_like(states[..., :1])], dim=-1)

    def for_targets(self, users: Tensor, positives: Tensor) -> Tensor:
        """What of the users' vectors (R, [K,] d_out) the loss looks at, given the targets' (R, d_out)."""
        return users

    def user_attributes(self, user: Mapping[str, Tensor]) -> Tensor | None:
        """Codes of the user attributes → (B, F, d); None where there are none."""
        if self.user_fields is None:
            return None
        fields: Tensor = self.user_fields(user)
        return fields

    def logit_scale(self) -> Tensor:
        """What served scores are multiplied by in the loss, 1/τ; 1 for "dot"."""
        if self.shape.similarity == "dot":
            return torch.ones_like(self.log_scale)
        return self.log_scale.exp().clamp(max=1.0 / _COLDEST)

    @property
    def device(self) -> str:
        """Where the weights are."""
        return str(self.items.index.device)

"""How retrievers are fitted: the item side of any (`SequenceConfig`), loss and index of those of vectors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Bound
from pydantic import field_validator

from recsys.index.config import IndexConfig
from recsys.models.item_tower import Similarity
from recsys.models.losses.softmax import Correction
from recsys.train.config import TrainerConfig
from recsys.train.warm_start import WarmStartConfig


class SequenceConfig(TrainerConfig):
    """The item side, and what a step learns from; how it is optimised is inherited from TrainerConfig.

    Attributes:
        dim: width of embeddings and vectors.
        history_length: newest items looked at; None = all that the features keep.
        similarity: "dot" has a bias an item, "cosine" a learned temperature.
        temperature: where the learned temperature starts.
        dropout: rate inside towers and encoders.
        id_dropout: share of the items whose id a step does not look at, so that attributes learn to speak for items
            that come later; without attributes no id is hidden.
        exclude_history: whether items that the user has are left out of a full softmax, as answers that exclude them
            do; "auto": where hardly anybody chooses an item twice.
        batch_users: sequences a step.
        places: share of the places of a batch's sequences that a step learns from, other ones each time: those of one
            sequence are alike, so that fewer of more sequences teach more in the same time.
        user_fields, item_fields: attributes to use: "all", "none" or some by name.
        warm_start: what is otherwise where a fit starts from an earlier run.
    """

    dim: int = Bound(64, ge=4, le=1024)
    history_length: int | None = Bound(None, ge=1)
    similarity: Similarity = "dot"
    temperature: float = Bound(0.07, gt=0)
    dropout: float = Bound(0.2, ge=0, lt=1)
    id_dropout: float = Bound(0.0, ge=0, lt=1)
    exclude_history: bool | Literal["auto"] = "auto"
    batch_users: int = Bound(64, ge=1)
    places: float = Bound(1.0, gt=0, le=1)
    user_fields: Literal["all", "none"] | tuple[str, ...] = "all"
    item_fields: Literal["all", "none"] | tuple[str, ...] = "all"
    warm_start: WarmStartConfig = WarmStartConfig()


class RetrieverConfig(SequenceConfig):
    """Loss and index of a retriever of vectors; the item side is inherited from SequenceConfig.

    Attributes:
        loss: "auto" is the full softmax up to 50,000 items, the sampled one beyond.
        correction: of the sampled softmax (see `sampled_softmax`).
        in_batch_negatives, uniform_negatives: columns of the sampled softmax.
        hard_negatives: columns that are looked up for each sequence of a step, besides: items that the model ranks
            between `hard_ranks` for one of its places (see `NextItemObjective`).
        hard_ranks: the first rank that may be one, 0 = best, and the first that may not; above the first are
            items that the user may well want.
        hard_refresh: steps between two indexes to look them up in.
        memory_batches: latest batches whose columns are columns of this one too, after `memory_warm_up` steps: while
            vectors still move fast, old ones mislead.
        frequency: what its correction knows of how often items are targets: "counted" over the log beforehand, or
            "streaming" (see `StreamingFrequency`), which follows a law that drifts and needs no pass over the log.
        frequency_rate: weight of the newest gap in the streamed estimate.
        label_smoothing: of the full softmax.
        index: the index of item vectors; its metric follows `similarity`.
    """

    loss: Literal["auto", "full_softmax", "sampled_softmax"] = "auto"
    correction: Correction = "corrected"
    in_batch_negatives: int = Bound(2048, ge=0)
    uniform_negatives: int = Bound(1024, ge=0)
    hard_negatives: int = Bound(0, ge=0)
    hard_ranks: tuple[int, int] = (10, 200)
    hard_refresh: int = Bound(200, ge=1)
    memory_batches: int = Bound(0, ge=0)
    memory_warm_up: int = Bound(1000, ge=0)
    frequency: Literal["counted", "streaming"] = "counted"
    frequency_rate: float = Bound(0.01, gt=0, lt=1)
    label_smoothing: float = Bound(0.0, ge=0, lt=1)
    index: IndexConfig = IndexConfig()

    @field_validator("hard_ranks")
    @classmethod
    def _some_ranks(cls, ranks: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= ranks[0] < ranks[1]:
            raise ValueError("there is no rank from the first on that is before the second")
        return ranks

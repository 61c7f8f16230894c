"""What a retriever is trained for: telling each next item from all others, or from a corrected sample of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.losses.softmax import Correction, expected_counts, full_softmax, sampled_softmax
from recsys.models.retriever import Retriever
from recsys.models.sequence_batch import Negatives, SequenceBatch
from recsys.train.frequency import ItemFrequency

_RAREST = 1e-12
"""Keeps the log of an expected count finite for an item that training does not hold."""


@dataclass(frozen=True, eq=False)
class NextItemObjective:
    """A batch of sequences to its mean loss.

    Attributes:
        model: what is trained.
        frequency: each item's share of the training targets, for the sampled softmax.
        correction: of the sampled softmax.
        label_smoothing: of the full softmax.
        bf16: whether the softmax multiplies in bfloat16.
    """

    model: Retriever
    frequency: ItemFrequency
    correction: Correction = "corrected"
    label_smoothing: float = 0.0
    bf16: bool = False

    def __call__(self, batch: SequenceBatch) -> Tensor:
        """The mean loss over the batch's targets, a scalar."""
        batch = batch.to(self.model.device)
        return self._full(batch) if batch.negatives is None else self._sampled(batch, batch.negatives)

    def _full(self, batch: SequenceBatch) -> Tensor:
        states, vectors = self.model.items()
        targets = batch.targets[batch.targets >= 0]
        users = self._users(batch, F.embedding(batch.history, states))
        return full_softmax(
            self.model.for_targets(users, F.embedding(targets, vectors)),
            vectors,
            targets,
            label_smoothing=self.label_smoothing,
            credit=self.model.credit,
            bf16=self.bf16,
        )

    def _sampled(self, batch: SequenceBatch, negatives: Negatives) -> Tensor:
        """The item tower runs over the items that occur in the batch, each once."""
        targets = batch.targets[batch.targets >= 0]
        sequences = (batch.targets >= 0).nonzero()[:, 0]
        asked = torch.cat([batch.history.flatten(), targets, negatives.rows])
        self.frequency.observe(targets if batch.samples else targets[:0])
        rows, place = torch.unique(asked, return_inverse=True)
        history, positive, negative = place.split([batch.history.numel(), len(targets), len(negatives.rows)])
        states, vectors = self.model.items(rows)
        users = self._users(batch, F.embedding(history.view_as(batch.history), states))
        positives = F.embedding(positive, vectors)
        return sampled_softmax(
            self.model.for_targets(users, positives),
            positives,
            F.embedding(negative, vectors),
            positive_rows=targets,
            negative_rows=negatives.rows,
            log_expected=self._log_expected(negatives, negatives.rows),
            positive_log_expected=self._log_expected(negatives, targets),
            row_groups=sequences,
            column_groups=negatives.sequences,
            correction=self.correction,
            credit=self.model.credit,
            bf16=self.bf16,
        )

    def _users(self, batch: SequenceBatch, history: Tensor) -> Tensor:
        """(R, [K,] d_out) user vectors at the places with a target, over the temperature."""
        asked = batch.targets >= 0
        places = asked.any(dim=0).nonzero()[:, 0]
        rows = asked[:, places].flatten().nonzero()[:, 0]
        states = self.model.user_states(history, batch.user, places).flatten(0, 1).index_select(0, rows)
        return self.model.user_vectors(states) * self.model.logit_scale()

    def _log_expected(self, negatives: Negatives, rows: Tensor) -> Tensor:
        shares = self.frequency.shares(rows)
        counts = expected_counts(shares, negatives.others, negatives.uniform, len(self.model.items))
        return counts.clamp(min=_RAREST).log()

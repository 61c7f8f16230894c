"""What a retriever is trained for: telling each next item from all others, or from a corrected sample of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.losses.softmax import Correction, Seen, expected_counts, full_softmax, sampled_softmax
from recsys.models.retriever import Retriever
from recsys.models.sequence_batch import Negatives, SequenceBatch
from recsys.train.checkpoint import Stateful, below, under
from recsys.train.frequency import ItemFrequency
from recsys.train.hard_negatives import HardNegatives
from recsys.train.negative_memory import NegativeMemory

_RAREST = 1e-12
"""Keeps the log of an expected count finite for an item that training does not hold."""
_ENDLESS = 1e9
"""The log of an expected count that takes all weight off a column."""


@dataclass(frozen=True, eq=False)
class NextItemObjective:
    """A batch of sequences to its mean loss.

    Beside the columns drawn for the batch, a sampled softmax may have two more kinds; with both it estimates what the
    full softmax computes, as it does without.

    - Remembered columns are draws as well: an item's expected count E_i is then that among the draws of all batches.
      They have no gradient, so the batch's own columns of item i, e_i of the E_i, take it for all of them: theirs is
      multiplied by E_i / e_i. Else items would be pulled up by their positives and pushed down by a part of what is
      due.
    - Hard negatives H are no draws. The sum over the catalogue is split (stratified sampling): the items of H are
      counted in full, each once with weight 1, and draws estimate the sum over the others alone, so that draws of an
      item of H get no weight. Whatever H is, the estimate of the partition function has no bias, as long as the draws
      do not depend on H; and its variance is less where H is what scores high. Hard negatives that count for more
      than they are ("none") are what makes a model fast to learn and wrong about popularity.

    Attributes:
        model: what is trained.
        frequency: each item's share of the training targets, for the sampled softmax.
        correction: of the sampled softmax.
        label_smoothing: of the full softmax.
        exclude_history: whether the full softmax leaves out what the user had.
        bf16: whether the softmax multiplies in bfloat16.
        memory: columns of the batches before, for the sampled softmax; None = none.
        hard: who looks hard negatives up, for batches that ask for them.
        shown: (C,) catalogue rows, ascending, that targets are told from; None = all. That nobody chose the others
            would teach the model that newcomers, and whatever they alone have, are never chosen.
    """

    model: Retriever
    frequency: ItemFrequency
    correction: Correction = "corrected"
    label_smoothing: float = 0.0
    exclude_history: bool = False
    bf16: bool = False
    memory: NegativeMemory | None = None
    hard: HardNegatives | None = None
    shown: Tensor | None = None

    def __call__(self, batch: SequenceBatch) -> Tensor:
        """The mean loss over the batch's targets, a scalar."""
        batch = batch.to(self.model.device)
        return self._full(batch) if batch.negatives is None else self._sampled(batch, batch.negatives)

    def tensors(self) -> dict[str, Tensor]:
        """See Stateful."""
        return {name: t for part, state in self._parts().items() for name, t in under(part, state.tensors()).items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See Stateful."""
        for part, state in self._parts().items():
            state.restore(below(part, tensors))

    def _full(self, batch: SequenceBatch) -> Tensor:
        states, vectors = self.model.items(self.shown)
        history, targets = self._columns(batch.history), self._columns(batch.targets[batch.targets >= 0])
        users = users_at_targets(self.model, batch, F.embedding(history, states))
        return full_softmax(
            self.model.for_targets(users, F.embedding(targets, vectors)),
            vectors,
            targets,
            label_smoothing=self.label_smoothing,
            seen=Seen(history, *(batch.targets >= 0).nonzero().unbind(1)) if self.exclude_history else None,
            credit=self.model.credit,
            bf16=self.bf16,
        )

    def _columns(self, rows: Tensor) -> Tensor:
        """Catalogue rows as columns of the full softmax; what pads may become any."""
        return rows if self.shown is None else torch.searchsorted(self.shown, rows).clamp(max=len(self.shown) - 1)

    def _parts(self) -> dict[str, Stateful]:
        parts = {"frequency": self.frequency, "memory": self.memory, "hard": self.hard}
        return {name: part for name, part in parts.items() if part is not None}

    def _sampled(self, batch: SequenceBatch, negatives: Negatives) -> Tensor:
        """The item tower runs over the items that occur in the batch, each once."""
        targets = batch.targets[batch.targets >= 0]
        asked = torch.cat([batch.history.flatten(), targets, negatives.rows])
        self.frequency.observe(targets if batch.samples else targets[:0])
        rows, place = torch.unique(asked, return_inverse=True)
        history, positive, negative = place.split([batch.history.numel(), len(targets), len(negatives.rows)])
        states, vectors = self.model.items(rows)
        users = users_at_targets(self.model, batch, F.embedding(history.view_as(batch.history), states))
        drawn, columns = self._with_remembered(negatives, F.embedding(negative, vectors))
        log_expected, of_targets = self._log_expected(drawn, drawn.rows), self._log_expected(drawn, targets)
        if self.hard is not None and negatives.mining is not None:
            hard = self.hard.rows(users.detach(), batch, negatives.mining)
            hard = hard if self.shown is None else hard[torch.isin(hard, self.shown)]
            log_expected = log_expected.masked_fill(torch.isin(drawn.rows, hard), _ENDLESS)
            log_expected = torch.cat([log_expected, torch.zeros_like(hard, dtype=log_expected.dtype)])
            of_targets = of_targets.masked_fill(torch.isin(targets, hard), 0.0)
            columns = torch.cat([columns, self.model.items(hard)[1]])
            drawn = drawn.followed_by(hard)
        positives = F.embedding(positive, vectors)
        return sampled_softmax(
            self.model.for_targets(users, positives),
            positives,
            columns,
            positive_rows=targets,
            negative_rows=drawn.rows,
            log_expected=log_expected,
            positive_log_expected=of_targets,
            row_groups=(batch.targets >= 0).nonzero()[:, 0],
            column_groups=drawn.sequences,
            correction=self.correction,
            credit=self.model.credit,
            bf16=self.bf16,
        )

    def _with_remembered(self, fresh: Negatives, vectors: Tensor) -> tuple[Negatives, Tensor]:
        """The columns of the batch and those remembered, with the gradient of all of them upon the former."""
        if self.memory is None:
            return fresh, vectors
        drawn, columns = self.memory.joined(fresh, vectors)
        times = (self._log_expected(drawn, fresh.rows) - self._log_expected(fresh, fresh.rows)).exp()[:, None]
        still = vectors.detach()
        return drawn, torch.cat([still + times * (vectors - still), columns[len(vectors) :]])

    def _log_expected(self, negatives: Negatives, rows: Tensor) -> Tensor:
        shares = self.frequency.shares(rows)
        drawn_from = len(self.model.items if self.shown is None else self.shown)
        counts = expected_counts(shares, negatives.others, negatives.uniform, drawn_from)
        return counts.clamp(min=_RAREST).log()


def users_at_targets(model: Retriever, batch: SequenceBatch, history: Tensor) -> Tensor:
    """(R, [K,] d_out) user vectors at the places with a target, over the temperature.

    Args:
        model: whose.
        batch: on its device.
        history: (B, L, d) item states of the histories.
    """
    asked = batch.targets >= 0
    places = asked.any(dim=0).nonzero()[:, 0]
    rows = asked[:, places].flatten().nonzero()[:, 0]
    states = model.user_states(history, batch.user, places).flatten(0, 1).index_select(0, rows)
    return model.user_vectors(states) * model.logit_scale()

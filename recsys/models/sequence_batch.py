"""What a step of training is given: sequences, what follows each of their places, and the negatives to tell it from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Negatives:
    """Columns that the R targets of a batch are told from in a sampled softmax.

    Attributes:
        rows: (M,) catalogue rows.
        sequences: (M,) the batch's sequence that a column is a target of, -1 = drawn from the catalogue; no column
            of its own sequence.
        others: expected number of columns that are targets of other sequences, drawn by their share of the data.
        uniform: number of columns drawn evenly from the catalogue.
    """

    rows: Tensor
    sequences: Tensor
    others: float
    uniform: int


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """B training sequences, right-padded.

    Attributes:
        history: (B, L) catalogue rows, oldest first; 0 where padded.
        targets: (B, L + 1) the row chosen after the first t items, -1 = nothing to learn there.
        user: codes of the user attributes, (B,) or (B, values) by field.
        negatives: None = the whole catalogue.
        samples: R, the number of targets.
    """

    history: Tensor
    targets: Tensor
    user: Mapping[str, Tensor] = field(default_factory=dict)
    negatives: Negatives | None = None
    samples: int = 0

    def to(self, device: str) -> SequenceBatch:
        """The same batch on a device."""
        if device == "cpu":
            return self
        moved = None
        if self.negatives is not None:
            drawn = self.negatives
            moved = replace(drawn, rows=drawn.rows.to(device), sequences=drawn.sequences.to(device))
        user = {name: codes.to(device) for name, codes in self.user.items()}
        return SequenceBatch(self.history.to(device), self.targets.to(device), user, moved, self.samples)

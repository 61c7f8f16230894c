"""What a step of training is given: sequences, what follows each of their places, and the negatives to tell it from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mining:
    """Which hard negatives join the columns of a batch of B sequences.

    Attributes:
        places: (B,) the place of each sequence that they are hard for, one with a target; -1 = none.
        ranks: (B, h) their places in the model's ranking there, 0 = first.
    """

    places: Tensor
    ranks: Tensor


@dataclass(frozen=True, slots=True)
class Negatives:
    """Columns that the R targets of a batch are told from in a sampled softmax.

    Attributes:
        rows: (M,) catalogue rows.
        sequences: (M,) the batch's sequence that a column is a target of, -1 = drawn from the catalogue; no column
            of its own sequence.
        others: expected number of columns that are targets of other sequences, drawn by their share of the data.
        uniform: number of columns drawn evenly from the catalogue.
        mining: columns to be looked up beside; None = none.
    """

    rows: Tensor
    sequences: Tensor
    others: float
    uniform: int
    mining: Mining | None = None

    def followed_by(self, rows: Tensor) -> Negatives:
        """The same, then columns (H,) that are nobody's targets."""
        sequences = torch.cat([self.sequences, torch.full_like(rows, -1)])
        return replace(self, rows=torch.cat([self.rows, rows]), sequences=sequences)


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
            drawn, mining = self.negatives, self.negatives.mining
            if mining is not None:
                mining = Mining(mining.places.to(device), mining.ranks.to(device))
            moved = replace(drawn, rows=drawn.rows.to(device), sequences=drawn.sequences.to(device), mining=mining)
        user = {name: codes.to(device) for name, codes in self.user.items()}
        return SequenceBatch(self.history.to(device), self.targets.to(device), user, moved, self.samples)

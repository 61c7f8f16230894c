"""Training batches sliced straight from the arrays of all sequences: no per-row Python, no worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.interactions import Interactions
from recsys.models.two_tower import Negatives, SequenceBatch

_BUCKETED_BATCHES = 32
"""Users are sorted by length within this many batches at a time: little padding, and still a random order."""


@dataclass(frozen=True, slots=True)
class SequenceSampling:
    """How sequences become batches.

    Attributes:
        batch_users: sequences a batch.
        length: items of history a window holds; a longer sequence gives one random window an epoch.
        in_batch: columns drawn from the batch's own targets; 0 with `uniform` 0 = no sampling, the whole catalogue.
        uniform: columns drawn evenly from the catalogue.
        seed: batches are a function of (seed, epoch, step) alone.
    """

    batch_users: int
    length: int
    in_batch: int = 0
    uniform: int = 0
    seed: int = 0


class SequenceSource:
    """Batches of windows over users' sequences.

    Args:
        sequences: who chose what, in order.
        user_codes: encoded attributes aligned with `sequences.user_ids`.
        catalogue_size: N.
        sampling: see there.
    """

    def __init__(
        self,
        sequences: Interactions,
        user_codes: Mapping[str, NDArray[np.integer[Any]]],
        catalogue_size: int,
        sampling: SequenceSampling,
    ) -> None:
        self.sequences = sequences
        self.user_codes = {name: np.asarray(codes, np.int64) for name, codes in user_codes.items()}
        self.catalogue_size = catalogue_size
        self.sampling = sampling
        self.steps = -(-len(sequences) // sampling.batch_users)

    def shares(self) -> NDArray[np.float32]:
        """(N,) q, each row's share of all choices."""
        counts = np.bincount(self.sequences.rows, minlength=self.catalogue_size)
        shares: NDArray[np.float32] = (counts / max(1, counts.sum())).astype(np.float32)
        return shares

    def epoch(self, epoch: int, start: int = 0) -> Iterator[SequenceBatch]:
        """The batches of an epoch from step `start` on; the same ones each time."""
        rng = np.random.default_rng([self.sampling.seed, epoch])
        lengths = self.sequences.lengths
        longest = self.sampling.length + 1
        starts = rng.integers(0, np.maximum(lengths - longest, 0) + 1)
        for step, users in enumerate(self._plan(rng, np.minimum(lengths, longest))):
            if step >= start:
                yield self.batch(users, starts[users], np.random.default_rng([self.sampling.seed, epoch, step]))

    def batch(self, users: NDArray[np.int64], starts: NDArray[np.int64], rng: np.random.Generator) -> SequenceBatch:
        """One batch: the window of each of `users` (B,) that begins `starts` (B,) items into the sequence."""
        first = self.sequences.offsets[users]
        events = np.minimum(self.sequences.offsets[users + 1] - first - starts, self.sampling.length + 1)
        places = np.arange(events.max())
        present = places < events[:, None]
        rows = self.sequences.rows[np.where(present, (first + starts)[:, None] + places, 0)].astype(np.int64)
        targets = np.where(present, rows, -1)
        targets[starts > 0, 0] = -1  # what stands before a cut window is not an empty history
        history = np.where(present[:, 1:], rows[:, :-1], 0)
        return SequenceBatch(
            history=torch.from_numpy(history),
            targets=torch.from_numpy(targets),
            user={name: torch.from_numpy(codes[users]) for name, codes in self.user_codes.items()},
            negatives=self._negatives(targets[targets >= 0], rng),
            samples=int((targets >= 0).sum()),
        )

    def _plan(self, rng: np.random.Generator, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Users of each step: shuffled, sorted by length within large buckets, steps shuffled."""
        size = self.sampling.batch_users
        order = rng.permutation(len(lengths))
        bucket = np.arange(len(order)) // (size * _BUCKETED_BATCHES)
        order = order[np.lexsort((lengths[order], bucket))]
        steps = [order[at : at + size] for at in range(0, len(order), size)]
        return [steps[i] for i in rng.permutation(len(steps))]

    def _negatives(self, positives: NDArray[np.int64], rng: np.random.Generator) -> Negatives | None:
        """Columns for a sampled softmax; None for the whole catalogue."""
        if not self.sampling.in_batch and not self.sampling.uniform:
            return None
        drawn = rng.permutation(len(positives))[: self.sampling.in_batch]
        own = np.full(len(positives), -1)
        own[drawn] = np.arange(len(drawn))
        uniform = rng.integers(0, self.catalogue_size, self.sampling.uniform)
        return Negatives(
            rows=torch.from_numpy(np.concatenate([positives[drawn], uniform])),
            own=torch.from_numpy(own),
            others=len(drawn) * (1.0 - 1.0 / max(1, len(positives))),
            uniform=self.sampling.uniform,
        )

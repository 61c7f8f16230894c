"""Training batches sliced straight from the arrays of all sequences: no per-row Python, no worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.interactions import Interactions
from recsys.models.sequence_batch import Mining, Negatives, SequenceBatch
from recsys.train.ranks import ALONE, Ranks
from recsys.types import offsets_of

_BUCKETED_BATCHES = 32
"""Users are sorted by length within this many batches at a time: little padding, and still a random order."""
_USERS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class SequenceSampling:
    """How sequences become batches.

    Attributes:
        batch_users: sequences a batch.
        length: items of history a window holds; a longer sequence gives one random window an epoch.
        in_batch: columns drawn from the batch's own targets; 0 with `uniform` 0 = no sampling, the whole catalogue.
        uniform: columns drawn evenly from the catalogue.
        places: share of a batch's places that have targets; drawn for all its sequences alike, so that the others
            need not be computed.
        mined: hard negatives looked up for each sequence, where columns are drawn at all.
        mined_ranks: first rank that may be one, and the first that may not.
        seed: batches are a function of (seed, epoch, step) alone.
    """

    batch_users: int
    length: int
    in_batch: int = 0
    uniform: int = 0
    places: float = 1.0
    mined: int = 0
    mined_ranks: tuple[int, int] = (10, 200)
    seed: int = 0

    @property
    def samples(self) -> bool:
        """Whether targets are told from a sample of items, not from the whole catalogue."""
        return self.in_batch + self.uniform > 0


class SequenceSource:
    """Batches of windows over users' sequences.

    Args:
        sequences: who chose what, in order.
        user_codes: encoded attributes aligned with `sequences.user_ids`.
        catalogue_size: N.
        sampling: see there.
        ranks: the workers that each batch is dealt to; the batches are those of one worker, whatever their number.
        shown: (C,) rows that columns are drawn from evenly; None = all.
    """

    def __init__(
        self,
        sequences: Interactions,
        user_codes: Mapping[str, NDArray[np.integer[Any]]],
        catalogue_size: int,
        sampling: SequenceSampling,
        ranks: Ranks = ALONE,
        shown: NDArray[np.int64] | None = None,
    ) -> None:
        self.sequences = sequences
        self.user_codes = {name: np.asarray(codes, np.int64) for name, codes in user_codes.items()}
        self.catalogue_size = catalogue_size
        self.sampling = sampling
        self.ranks = ranks
        self.shown = shown
        self.steps = -(-len(sequences) // sampling.batch_users)

    def shares(self) -> NDArray[np.float32]:
        """(N,) q, each row's expected share of the targets of an epoch.

        Not its share of all choices: of a sequence longer than a window an epoch holds one window, so that those who
        chose most count for less than they chose.
        """
        counts = np.bincount(self.sequences.rows, minlength=self.catalogue_size).astype(np.float64)
        cut = np.flatnonzero(self.sequences.lengths > self.sampling.length + 1)
        for users in np.array_split(cut, len(cut) // _USERS_AT_ONCE + 1):
            places, chances = self._chances(users)
            np.add.at(counts, self.sequences.rows[places], chances - 1.0)
        shares: NDArray[np.float32] = (counts / max(1.0, counts.sum())).astype(np.float32)
        return shares

    def _chances(self, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Where the interactions of users with cut sequences are, and the chance of each to be a target of an epoch.

        That is the share of windows that it is a target of: window s of a sequence of n covers the W places from s on,
        s = 0 … n - W; its first place is a target for s = 0 alone.
        """
        width = self.sampling.length + 1
        lengths = self.sequences.lengths[users]
        count = np.repeat(lengths, lengths)
        place = np.arange(len(count)) - np.repeat(offsets_of(lengths)[:-1], lengths)
        later = np.minimum(place - 1, count - width) - np.maximum(1, place - width + 1) + 1
        windows = np.maximum(later, 0) + (place < width)
        return np.repeat(self.sequences.offsets[users], lengths) + place, windows / (count - width + 1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[SequenceBatch]:
        """The batches of an epoch from step `start` on, this worker's share of each; the same ones each time."""
        rng = np.random.default_rng([self.sampling.seed, epoch])
        lengths = self.sequences.lengths
        longest = self.sampling.length + 1
        starts = rng.integers(0, np.maximum(lengths - longest, 0) + 1)
        for step, users in enumerate(self._plan(rng, np.minimum(lengths, longest))):
            if step >= start:
                whole = self.batch(users, starts[users], np.random.default_rng([self.sampling.seed, epoch, step]))
                yield share_of(whole, self.ranks.rank, self.ranks.world)

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
        if self.sampling.places < 1.0:
            targets[:, _left_out(targets, self.sampling.places, rng)] = -1
        return SequenceBatch(
            history=torch.from_numpy(history),
            targets=torch.from_numpy(targets),
            user={name: torch.from_numpy(codes[users]) for name, codes in self.user_codes.items()},
            negatives=self._negatives(targets, rng),
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

    def _negatives(self, targets: NDArray[np.int64], rng: np.random.Generator) -> Negatives | None:
        """Columns for a sampled softmax; None for the whole catalogue.

        Of the R targets (B, L + 1) M' are drawn without putting back. A row of a sequence with n of them expects
        M' (R - n) / R columns of other sequences; the mean over all rows is what the correction is told.
        """
        if not self.sampling.samples:
            return None
        sequence, place = np.nonzero(targets >= 0)
        drawn = rng.permutation(len(sequence))[: self.sampling.in_batch]
        uniform = rng.integers(0, self.catalogue_size if self.shown is None else len(self.shown), self.sampling.uniform)
        uniform = uniform if self.shown is None else self.shown[uniform]
        lengths = np.bincount(sequence)
        same = float((lengths**2).sum()) / max(1, len(sequence)) ** 2
        return Negatives(
            rows=torch.from_numpy(np.concatenate([targets[sequence[drawn], place[drawn]], uniform])),
            sequences=torch.from_numpy(np.concatenate([sequence[drawn], np.full(len(uniform), -1)])),
            others=len(drawn) * (1.0 - same),
            uniform=self.sampling.uniform,
            mining=self._mining(targets, rng) if self.sampling.mined else None,
        )

    def _mining(self, targets: NDArray[np.int64], rng: np.random.Generator) -> Mining:
        """One of the places with a target of each sequence, and ranks."""
        there = targets >= 0
        place = np.where(there, rng.random(there.shape), -1.0).argmax(axis=1)
        ranks = rng.integers(*self.sampling.mined_ranks, size=(len(targets), self.sampling.mined))
        return Mining(torch.from_numpy(np.where(there.any(axis=1), place, -1)), torch.from_numpy(ranks))


def _left_out(targets: NDArray[np.int64], kept: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Places (columns) of a batch that a share of those with targets leaves out; never all of them."""
    places = rng.permutation(np.flatnonzero((targets >= 0).any(axis=0)))
    return places[max(1, round(kept * len(places))) :]


def share_of(batch: SequenceBatch, rank: int, world: int) -> SequenceBatch:
    """What one of several workers learns from: every `world`-th sequence, with the columns drawn for the whole batch.

    Each worker draws the whole batch for itself, which costs less than to send it. So no vector is exchanged, and the
    losses of all shares, weighed by their samples, are the loss of the batch. Who gets no sequence, in a batch of
    fewer than there are workers, takes one whose samples do not count.
    """
    if world == 1:
        return batch
    first, counts = (rank, True) if rank < len(batch.targets) else (0, False)
    mine = slice(first, None, world)
    targets = batch.targets[mine]
    negatives = batch.negatives
    if negatives is not None:
        own = negatives.sequences % world == first
        place = torch.where((negatives.sequences >= 0) & own, negatives.sequences // world, -1)
        mining = negatives.mining
        if mining is not None:
            mining = Mining(mining.places[mine], mining.ranks[mine])
        negatives = replace(negatives, sequences=place, mining=mining)
    return SequenceBatch(
        history=batch.history[mine],
        targets=targets,
        user={name: codes[mine] for name, codes in batch.user.items()},
        negatives=negatives,
        samples=int((targets >= 0).sum()) if counts else 0,
    )

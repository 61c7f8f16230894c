"""How often each item is a training target, which the correction of sampled negatives needs: counted, or streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from recsys.train.checkpoint import Stateful
from recsys.train.ranks import ALONE, Ranks

_MULTIPLIERS: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
"""Odd 64-bit numbers of the hashes (golden ratio, xxHash, Murmur-like mixers): row · multiplier, upper bits."""
_MOST_CELLS: Final = 1 << 22


class ItemFrequency(Stateful, Protocol):
    """q of items, as a sampled softmax asks for it."""

    def observe(self, rows: Tensor) -> None:
        """Sees the targets (R,) of a batch that is trained on, before their shares are asked for."""
        ...

    def shares(self, rows: Tensor) -> Tensor:
        """(M,) catalogue rows → (M,) q, the share of targets that each is."""
        ...


@dataclass(frozen=True, slots=True)
class CountedFrequency:
    """Shares that were counted before training began: exact for a log that stays as it is.

    Attributes:
        counted: (N,) float, adding up to 1.
    """

    counted: Tensor

    def observe(self, rows: Tensor) -> None:
        """Nothing: all is known."""

    def shares(self, rows: Tensor) -> Tensor:
        """See ItemFrequency."""
        return self.counted[rows]

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing."""


class StreamingFrequency:
    """Shares estimated from the targets as they come (Yi et al. 2019, algorithms 2 and 3).

    Of each item the place A where it was last seen and its average gap B: when it comes as the t-th target,
    B ← (1 - a) B + a (t - A), A ← t; q = 1/B. Items share cells by several hashes; a cell that is shared shows too
    small a gap, so the largest of an item's is taken. t counts targets, not batches: per batch, no item could have a
    gap below one, and all that are in most batches would look alike. The rate a is 1/k for an item's k-th gap until it
    has fallen to `rate`: at first the estimate is the plain count, later it forgets.

    Worth having where counting is not: when the log is a stream that is passed once, when its law drifts (the
    estimate follows within some 1/rate occurrences of an item), or when items are too many to count. For a log that
    stays as it is, counts are exact and the estimate has a spread of about √(rate/2).

    Args:
        cells: H of each hash; memory is 20 bytes · hashes · H.
        hashes: 1 to 4.
        rate: a, the weight of the newest gap.
        device: where rows come from.
        ranks: the workers that train together: each is shown its own targets and learns from all, so that t counts
            them all and every worker has the same estimate, the one in rank 0's checkpoint.
    """

    def __init__(
        self, cells: int, *, hashes: int = 3, rate: float = 0.01, device: str = "cpu", ranks: Ranks = ALONE
    ) -> None:
        if not 1 <= hashes <= len(_MULTIPLIERS) or not 0 < rate < 1 or cells < 1:
            raise ValueError(
                f"cells = {cells}, hashes = {hashes}, rate = {rate}: at least 1, 1 to 4, above 0 and below 1"
            )
        self.cells, self.hashes, self.rate, self.ranks = cells, hashes, rate, ranks
        self._last = torch.zeros(hashes * cells, dtype=torch.int64, device=device)
        self._gap = torch.zeros(hashes * cells, dtype=torch.float64, device=device)
        self._seen = torch.zeros(hashes * cells, dtype=torch.int32, device=device)
        self._time = torch.zeros((), dtype=torch.int64, device=device)

    @classmethod
    def for_catalogue(cls, items: int, *, rate: float, device: str, ranks: Ranks = ALONE) -> StreamingFrequency:
        """With cells for so many items that most have one alone, and at most 240 MiB of them."""
        return cls(min(2 * items, _MOST_CELLS), rate=rate, device=device, ranks=ranks)

    @torch.no_grad()
    def observe(self, rows: Tensor) -> None:
        """The rows (R,) one after the other: the result is that of R calls with one row each.

        What is done in turn to a cell with gaps g_1 … g_n and rates a_1 … a_n is the sum
        B ∏(1 - a_j) + Σ_j a_j g_j ∏_{l>j}(1 - a_l), so that all cells are brought up to date at once.
        """
        rows = self.ranks.concatenated(rows)
        if not len(rows):
            return
        times = self._time + torch.arange(1, len(rows) + 1, device=rows.device)
        cells, order = self._cells_of(rows).flatten().sort(stable=True)
        times = times.repeat(self.hashes)[order]
        touched, group, counts = torch.unique_consecutive(cells, return_inverse=True, return_counts=True)
        first = counts.cumsum(0) - counts
        occurrence = torch.arange(len(cells), device=rows.device) - first[group]
        gaps = times.diff(prepend=times[:1])
        gaps[first] = times[first] - self._last[touched]
        number = self._seen[touched][group] + occurrence + 1
        rates = (1.0 / number.double()).clamp(min=self.rate)
        kept = torch.where(number > 1, torch.log1p(-rates), 0.0)  # before the first gap there is nothing to keep
        kept_so_far = kept.cumsum(0)
        at_end, before = kept_so_far[first + counts - 1], kept_so_far[first] - kept[first]
        later = (at_end[group] - kept_so_far).exp()
        new = self._gap[touched] * (at_end - before).exp()
        self._gap[touched] = new.index_add(0, group, later * rates * gaps)
        self._last[touched] = times[first + counts - 1]
        self._seen[touched] += counts.int()
        self._time += len(rows)

    def shares(self, rows: Tensor) -> Tensor:
        """See ItemFrequency; 0 for a row that was not seen."""
        cells = self._cells_of(rows)
        gaps = torch.where(self._seen[cells] > 0, self._gap[cells], torch.inf)
        return (1.0 / gaps.amax(dim=0)).float()

    def tensors(self) -> dict[str, Tensor]:
        """See Stateful."""
        return {"last": self._last, "gap": self._gap, "seen": self._seen, "time": self._time}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See Stateful."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])

    def _cells_of(self, rows: Tensor) -> Tensor:
        """(M,) rows → (hashes, M) cells, those of hash h from h · cells on; multiply-shift hashing."""
        found = []
        for h, multiplier in enumerate(_MULTIPLIERS[: self.hashes]):
            mixed = (rows.long() + 1) * (multiplier - (1 << 64) if multiplier >= 1 << 63 else multiplier)
            upper = (mixed >> 33) & 0x7FFFFFFF  # 31 bits, never negative
            found.append(upper % self.cells + h * self.cells)
        return torch.stack(found)

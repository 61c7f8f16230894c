"""Cross-batch memory: columns of the latest batches, kept as they were, that later batches are told from as well."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys.models.sequence_batch import Negatives
from recsys.train.checkpoint import below, under
from recsys.train.ranks import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a batch drew: rows (M,), their vectors (M, d_out) as they were, and what was expected of the draw."""

    rows: Tensor
    vectors: Tensor
    others: float
    uniform: int

    def tensors(self) -> dict[str, Tensor]:
        drawn = torch.tensor([self.others, self.uniform], dtype=torch.float64)
        return {"rows": self.rows, "vectors": self.vectors, "drawn": drawn}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: str) -> _Kept:
        others, uniform = tensors["drawn"].tolist()
        return cls(tensors["rows"].to(device), tensors["vectors"].to(device), others, int(uniform))


class NegativeMemory:
    """Columns of the latest batches (XBM, Wang et al., CVPR 2020) for the corrected softmax (CBNS, Wang et al., 2021).

    A remembered vector costs a product and no gradient; it is older than the weights by at most `batches` steps.
    Draws of several batches are draws all the same: how often an item is expected among them is the sum of what each
    batch expected. A sequence that comes again while its targets are remembered, at the seam of two epochs, meets them
    as anybody's.

    Args:
        batches: how many are remembered.
        warm_up: batches before they are used: at first, vectors change faster than is worth remembering.
        device: where vectors are.
        ranks: the workers that train together; the vectors remembered are those of rank 0 (dropout makes each
            worker's its own), which its checkpoint holds.
    """

    def __init__(self, batches: int, warm_up: int = 0, *, device: str = "cpu", ranks: Ranks = ALONE) -> None:
        self.warm_up, self.device, self.ranks = warm_up, device, ranks
        self._kept: deque[_Kept] = deque(maxlen=batches)
        self._seen = 0

    def joined(self, fresh: Negatives, vectors: Tensor) -> tuple[Negatives, Tensor]:
        """A batch's columns and their vectors (M, d_out), then those remembered; the batch's are remembered in turn."""
        kept = tuple(self._kept) if self._seen >= self.warm_up else ()
        self._seen += 1
        of_leader = self.ranks.gather({"vectors": vectors.detach()})[0]["vectors"].to(vectors.device)
        self._kept.append(_Kept(fresh.rows, of_leader, fresh.others, fresh.uniform))
        together = replace(
            fresh.followed_by(torch.cat([fresh.rows[:0], *(batch.rows for batch in kept)])),
            others=fresh.others + sum(batch.others for batch in kept),
            uniform=fresh.uniform + sum(batch.uniform for batch in kept),
        )
        return together, torch.cat([vectors, *(batch.vectors for batch in kept)])

    def tensors(self) -> dict[str, Tensor]:
        """See Stateful."""
        found = {"seen": torch.tensor(self._seen)}
        for place, batch in enumerate(self._kept):
            found |= under(str(place), batch.tensors())
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See Stateful."""
        self._seen = int(tensors["seen"])
        self._kept.clear()
        while batch := below(str(len(self._kept)), tensors):
            self._kept.append(_Kept.of(batch, self.device))

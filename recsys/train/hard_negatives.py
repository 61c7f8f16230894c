"""Hard negatives: what the model, as it was a while ago, ranks high for a place of a sequence that led elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor

from recsys.index.config import IndexConfig
from recsys.index.vector_index import VectorIndex
from recsys.models.item_tower import ItemTower
from recsys.models.sequence_batch import Mining, SequenceBatch
from recsys.train.ranks import ALONE, Ranks
from recsys.types import Floats, RaggedRows, Rows

_INDEX: Final = IndexConfig(probes=32, recall_target=0.5, tuning_queries=32)
"""Exact on small catalogues. Beyond, what lists miss only makes for other hard negatives."""


class HardNegatives:
    """Looks hard negatives up in an index of the item vectors that is made anew every so many batches.

    Args:
        items: whose vectors are indexed.
        refresh: batches between two indexes.
        depth: how far down the ranking a rank may be asked for.
        ranks: the workers that train together: each looks up for its own sequences, and all get what all found.
    """

    def __init__(self, items: ItemTower, refresh: int, depth: int, *, ranks: Ranks = ALONE) -> None:
        self.items, self.refresh, self.depth, self.ranks = items, refresh, depth, ranks
        self._batches = 0
        self._index: VectorIndex | None = None

    @torch.no_grad()
    def rows(self, users: Tensor, batch: SequenceBatch, mining: Mining) -> Tensor:
        """(H,) catalogue rows, ascending, each once: the items at the ranks asked for.

        What a sequence itself holds is not ranked for it; where a user has several vectors, items are ranked by the
        greatest score.

        Args:
            users: (R, [K,] d_out) user vectors at the batch's places with a target.
            batch: where they are from.
            mining: which place of each sequence, and which ranks.
        """
        if self._index is None or self._batches % self.refresh == 0:
            self._index = _indexed(self._current_vectors())
        self._batches += 1
        there = (mining.places >= 0).nonzero()[:, 0]
        places = there * batch.targets.shape[1] + mining.places[there]
        chosen = users[((batch.targets >= 0).flatten().cumsum(0) - 1)[places]]
        queries = chosen.view(len(chosen), -1, chosen.shape[-1]).float().cpu().numpy()
        ranked = self._ranked(self._index, queries, _own(batch, there))
        asked = mining.ranks[there].cpu().numpy()
        found = torch.from_numpy(np.take_along_axis(ranked, asked, axis=1).ravel().astype(np.int64))
        rows: Tensor = torch.unique(self.ranks.concatenated(found[found >= 0]))
        return rows.to(users.device)

    def tensors(self) -> dict[str, Tensor]:
        """See Stateful."""
        found = {"batches": torch.tensor(self._batches)}
        if self._index is not None:
            found["vectors"] = torch.from_numpy(self._index.vectors())
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See Stateful; the index is made again of the vectors that it was made of."""
        self._batches = int(tensors["batches"])
        self._index = _indexed(tensors["vectors"].numpy()) if "vectors" in tensors else None

    def _current_vectors(self) -> Floats:
        """(N, d_out) as they would be served: nothing is dropped out."""
        training = self.items.training
        self.items.eval()
        vectors = self.items.catalogue_vectors()
        self.items.train(training)
        return vectors.float().cpu().numpy()

    def _ranked(self, index: VectorIndex, queries: Floats, own: RaggedRows) -> Rows:
        """(B, depth) rows, best first, of B users with K vectors (B, K, d_out); -1 where there are no more."""
        count, interests, dim = queries.shape
        if not count:
            return np.empty((0, self.depth), np.int32)
        groups = np.arange(count + 1, dtype=np.int64) * interests
        return index.search_groups(queries.reshape(-1, dim), groups, self.depth, excluded=own)[0]


def _indexed(vectors: Floats) -> VectorIndex:
    return VectorIndex.build(vectors, _INDEX)[0]


def _own(batch: SequenceBatch, sequences: Tensor) -> RaggedRows:
    """The items that each of the sequences (S,) holds; row 0, which pads, may be one too many."""
    held = torch.cat([batch.history[sequences], batch.targets[sequences]], dim=1).cpu().numpy()
    return RaggedRows.of([rows[rows >= 0] for rows in held])

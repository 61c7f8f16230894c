"""Approximate search: a FAISS inverted file of half-precision vectors that proposes, never scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recsys.errors import BundleError
from recsys.index.engine import is_member
from recsys.index.exact import ExactSearch
from recsys.types import Bools, Floats, RaggedRows, Rows

_TRAINING_ROWS_A_LIST = 64
_FEW_ALLOWED = 20_000
"""Up to so many allowed rows exact search among them is faster than an inverted file, and misses nothing."""
_OVERFETCH = 1_000
"""Up to so many exclusions are fetched and dropped; beyond, a bitmap keeps them out of the heap."""
_LIKELY = 64
"""Exclusions that a first search allows for."""
TUNED_FOR = 100
"""The number of answers that the number of probes is tuned for."""
_Reading: Any = faiss.SearchParametersIVF


def lists_for(count: int) -> int:
    """Inverted lists for N rows: the power of two next to 4·√N, with at least 39 rows a list (FAISS's advice)."""
    lists: int = 2 ** round(math.log2(4 * math.sqrt(max(count, 1))))
    return max(1, min(lists, count // 39))


class InvertedFile:
    """Engine over faiss.IndexIVFScalarQuantizer (fp16, inner product).

    Searches that the inverted file answers badly go to exact search: few allowed rows, or fewer
    answers than asked for after every list was read.

    Args:
        index: the FAISS index, holding row r of the catalogue under id r.
        exact: exact search over the same vectors.
        probes: lists that a search for 100 rows reads.
        growth: a search for c times as many rows, or under a filter that leaves one row in c, reads
            c ** growth times as many lists.
    """

    def __init__(self, index: Any, exact: ExactSearch, probes: int, growth: float) -> None:
        self.faiss_index = index
        self.exact = exact
        self.probes = probes
        self.growth = growth
        self._parameters: dict[int, Any] = {}

    @classmethod
    def build(cls, vectors: Floats, exact: ExactSearch, lists: int, seed: int) -> InvertedFile:
        """Clusters a sample of the vectors into `lists` lists and files all of them."""
        count, dim = vectors.shape
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, dim, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        index.cp.seed = seed + 1
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = _TRAINING_ROWS_A_LIST
        sample = np.random.default_rng(seed).permutation(count)[: lists * _TRAINING_ROWS_A_LIST]
        index.train(vectors[np.sort(sample)])
        index.add(vectors)
        return cls(index, exact, 1, 1.0)

    @property
    def lists(self) -> int:
        """Number of inverted lists."""
        return int(self.faiss_index.nlist)

    def propose(self, queries: Floats, k: int, allowed: Bools | None, excluded: RaggedRows | None) -> list[Rows]:
        """See `Engine.propose`. Reads more lists for large k, for strict filters, and where k rows were not found."""
        count = self.faiss_index.ntotal if allowed is None else int(np.count_nonzero(allowed))
        depth = max(1.0, k / TUNED_FOR) * self.faiss_index.ntotal / max(count, 1)
        probes = min(math.ceil(self.probes * depth**self.growth), self.lists)
        if k >= count or (allowed is not None and self._exact_is_faster(count, probes)):
            return self.exact.propose(queries, k, allowed, excluded)
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        if bits is None and (excluded is None or excluded.lengths.max(initial=0) <= _OVERFETCH):
            proposals = self._overfetch(queries, k, excluded, probes)
        else:
            proposals = [
                self._select(queries[b : b + 1], k, bits, None if excluded is None else excluded[b], probes)
                for b in range(len(queries))
            ]
        for b, rows in enumerate(proposals):
            if len(rows) < k:
                alone = None if excluded is None else excluded[b]
                proposals[b] = self._until_enough(queries[b : b + 1], k, allowed, bits, alone, probes)
        return proposals

    def _exact_is_faster(self, allowed: int, probes: int) -> bool:
        """Scoring one allowed row exactly takes about as long as testing four rows of a list against a bitmap."""
        read: float = self.faiss_index.ntotal * probes / self.lists
        return allowed <= max(_FEW_ALLOWED, read / 4)

    def _overfetch(self, queries: Floats, k: int, excluded: RaggedRows | None, probes: int) -> list[Rows]:
        """FAISS searches of the batch for more rows than k, less those excluded.

        Few of a user's excluded rows are among the best for that user, and FAISS's time grows with what it is
        asked for: the first search allows for `_LIKELY` of them, a second one for all where that was too few.
        """
        longest = 0 if excluded is None else int(excluded.lengths.max(initial=0))
        extra = min(longest, _LIKELY)
        wanted, parameters = _with_margin(k), self._reading(probes)
        _, found = self.faiss_index.search(queries, wanted + extra, params=parameters)
        if excluded is None:
            return [_ascending(rows) for rows in found]
        eligible = [rows[~is_member(rows, excluded[b])] for b, rows in enumerate(found)]
        short = [b for b, rows in enumerate(eligible) if len(rows) < wanted] if extra < longest else []
        if short:
            _, found = self.faiss_index.search(queries[short], wanted + longest, params=parameters)
            for b, rows in zip(short, found, strict=True):
                eligible[b] = rows[~is_member(rows, excluded[b])]
        return [_ascending(rows[:wanted]) for rows in eligible]

    def _select(self, query: Floats, k: int, bits: Any, excluded: Rows | None, probes: int) -> Rows:
        """One query, where FAISS skips what the bitmap does not allow."""
        bits = np.full((self.faiss_index.ntotal + 7) // 8, 255, np.uint8) if bits is None else bits.copy()
        if excluded is not None:
            np.bitwise_and.at(bits, excluded >> 3, ~(np.uint8(1) << (excluded & 7).astype(np.uint8)))
        parameters = _Reading(
            nprobe=min(probes, self.lists), sel=faiss.IDSelectorBitmap(self.faiss_index.ntotal, faiss.swig_ptr(bits))
        )
        _, found = self.faiss_index.search(query, _with_margin(k), params=parameters)
        return _ascending(found[0])

    def _until_enough(
        self, query: Floats, k: int, allowed: Bools | None, bits: Any, excluded: Rows | None, probes: int
    ) -> Rows:
        """Reads four times as many lists until k rows are found, and everything exactly when that takes them all."""
        while (probes := probes * 4) < self.lists:
            rows = self._select(query, k, bits, excluded, probes)
            if len(rows) >= k:
                return rows
        alone = None if excluded is None else RaggedRows(excluded, np.array([0, len(excluded)], np.int64))
        return self.exact.propose(query, k, allowed, alone)[0]

    def _reading(self, probes: int) -> Any:
        """Search parameters that read so many lists; kept, since making them costs more than a short search."""
        probes = min(probes, self.lists)
        if probes not in self._parameters:
            self._parameters[probes] = _Reading(nprobe=probes)
        return self._parameters[probes]

    def save(self, path: Path) -> None:
        """Writes the FAISS index to `path`."""
        faiss.write_index(self.faiss_index, str(path))

    @classmethod
    def open(cls, path: Path, exact: ExactSearch, probes: int, growth: float) -> InvertedFile:
        """Maps the inverted lists into memory, shared with every other process that does.

        Raises:
            BundleError: when FAISS cannot read the file.
        """
        try:
            index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            raise BundleError(f"{path}: FAISS cannot read it; build the index again ({error})") from None
        # FAISS would start 32 threads a search to touch pages ahead: 300 µs that a warm page cache does not need.
        lists: Any = faiss.downcast_InvertedLists(index.invlists)
        lists.prefetch_nthread = 0
        return cls(index, exact, probes, growth)


def _with_margin(k: int) -> int:
    """More than k, so that rounding to half precision costs no row of the best k."""
    return k + k // 4 + 16


def _ascending(rows: Any) -> Rows:
    """FAISS's answer, int64 and -1 where it found too few, as ascending rows."""
    return np.sort(rows[rows >= 0].astype(np.int32))

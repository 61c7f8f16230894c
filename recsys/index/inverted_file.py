"""Inverted files: vectors filed under the nearest of many centres, in half precision or product-quantised."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np

from recsys.errors import ConfigError
from recsys.index.approximate import FEW_ALLOWED, ApproximateSearch, blocks, read_index, scale_for
from recsys.index.config import IndexConfig, IndexReport
from recsys.index.exact import ExactSearch
from recsys.types import Floats

_TRAINING_ROWS_A_LIST = 64
_CODES = 256
"""Centres of a product quantiser's column group: one byte."""
_TRAINING_ROWS_A_CODE = 40
_GROUPS = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""Bytes of a code that a GPU can search too."""
_ROTATIONS = 10
"""Rounds of OPQ: on trained vectors the error of the codes changes little after so many."""
_Reading: Any = faiss.SearchParametersIVF
_RotatedReading: Any = faiss.SearchParametersPreTransform


def lists_for(count: int) -> int:
    """Inverted lists for N rows: the power of two next to 4·√N, with at least 39 rows a list (FAISS's advice)."""
    lists: int = 2 ** round(math.log2(4 * math.sqrt(max(count, 1))))
    return max(1, min(lists, count // 39))


class InvertedFile(ApproximateSearch):
    """Engine over a FAISS inverted file; its effort is the number of lists read.

    Vectors are filed as fp16 (`ivf`) or, rotated so that the groups of columns are about independent and equally
    spread, as one byte a group for the difference from their centre (`ivfpq`: optimized product quantization,
    Ge et al., CVPR 2013; inverted file with product quantisation, Jégou et al., PAMI 2011).
    """

    def __init__(self, index: Any, exact: ExactSearch, scale: float) -> None:
        super().__init__(index, exact, scale)
        self._file = cast(Any, faiss.downcast_index(faiss.extract_index_ivf(index)))
        self._lists = int(self._file.nlist)
        self._rotated = isinstance(index, faiss.IndexPreTransform)

    @classmethod
    def build(cls, exact: ExactSearch, config: IndexConfig) -> InvertedFile:
        """Clusters a sample of the vectors into lists and files all of them.

        Args:
            exact: over the (N, d) vectors to file.
            config: `kind` must be `ivf` or `ivfpq`.

        Raises:
            ConfigError: for codes of more bytes than a vector has columns.
        """
        count, dim = exact.vectors.shape
        lists = min(config.lists or lists_for(count), count)
        scale = np.float32(scale_for(exact.longest))
        metric = faiss.METRIC_L2 if exact.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        wanted = max(lists * _TRAINING_ROWS_A_LIST, _CODES * _TRAINING_ROWS_A_CODE if config.kind == "ivfpq" else 0)
        chosen = np.sort(np.random.default_rng(config.seed).permutation(count)[:wanted])
        sample = exact.centred(exact.vectors[chosen]) * scale
        if config.kind == "ivfpq":
            # Fewer rows than codes cannot train a quantiser: they are repeated.
            sample = np.resize(sample, (_CODES, dim)) if count < _CODES else sample
            index = _quantised(sample, lists, metric, config)
        else:
            index = _half_precision(dim, lists, metric, config)
        index.train(sample)
        for block in blocks(count):
            index.add(exact.centred(exact.vectors[block]) * scale)
        return cls(index, exact, float(scale))

    @property
    def lists(self) -> int:
        """Number of inverted lists."""
        return self._lists

    @property
    def most(self) -> int:
        """All lists."""
        return self.lists

    @property
    def pq_bytes(self) -> int:
        """Bytes of a product-quantised code; 0 for half precision."""
        return int(self._file.code_size) if self._rotated else 0

    def laid(self, queries: Floats) -> Floats:
        """The order by dot product does not depend on the scale of the query; that by distance does."""
        return self.exact.centred(queries) * np.float32(self.scale) if self.exact.metric == "l2" else queries

    def _exact_is_faster(self, k: int, eligible: int, filtered: bool, effort: int) -> bool:
        """Scoring one allowed row exactly takes about as long as testing four rows of a list against a bitmap."""
        return filtered and eligible <= max(FEW_ALLOWED, len(self.exact.vectors) * effort / self._lists / 4)

    def least(self, k: int) -> int:
        """One list."""
        return 1

    def _parameters(self, effort: int, selector: Any = None) -> Any:
        reading = _Reading(nprobe=effort, sel=selector)
        return _RotatedReading(index_params=reading) if self._rotated else reading

    def size(self) -> int:
        """See `ApproximateSearch.size`; by distance, codes have a table a list that FAISS makes at opening."""
        table: int = self._file.precomputed_table.size() * 4 if self._rotated else 0
        return super().size() + table

    def settings(self) -> dict[str, int]:
        """See `ApproximateSearch.settings`."""
        return {"lists": self.lists, "probes": self.effort, "pq_bytes": self.pq_bytes}

    @classmethod
    def open(cls, path: Path, exact: ExactSearch, report: IndexReport) -> InvertedFile:
        """Maps the inverted lists into memory, shared with every other process that does.

        Raises:
            BundleError: when FAISS cannot read the file.
        """
        engine = cls(read_index(path, faiss.IO_FLAG_MMAP), exact, report.scale)
        engine.effort, engine.growth, engine.candidates = report.probes, report.probe_growth, report.candidates
        # FAISS would start 32 threads a search to touch pages ahead: 300 µs that a warm page cache does not need.
        lists: Any = faiss.downcast_InvertedLists(engine._file.invlists)
        lists.prefetch_nthread = 0
        return engine


def _half_precision(dim: int, lists: int, metric: int, config: IndexConfig) -> Any:
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlat(dim, metric), dim, lists, faiss.ScalarQuantizer.QT_fp16, metric, False
    )
    return _seeded(index, config)


def _quantised(sample: Floats, lists: int, metric: int, config: IndexConfig) -> Any:
    dim = sample.shape[1]
    groups = config.pq_bytes or max(size for size in _GROUPS if size <= max(1, dim // 4))
    if groups > dim:
        raise ConfigError(f"pq_bytes = {groups}: the vectors have {dim} columns; a byte stands for one at least")
    width = math.ceil(dim / groups) * groups
    index = _seeded(faiss.IndexIVFPQ(faiss.IndexFlat(width, metric), width, lists, groups, 8, metric), config)
    index.pq.cp.min_points_per_centroid = 1
    index.pq.cp.max_points_per_centroid = _TRAINING_ROWS_A_CODE
    return faiss.IndexPreTransform(_rotation(sample, groups, width), index)


def _rotation(sample: Floats, groups: int, width: int) -> Any:
    """From the sample's columns to `width`, the groups of which are about independent and equally spread."""
    rotation = faiss.OPQMatrix(sample.shape[1], groups, width)
    # A single group holds all columns: however they are turned, its codes err by the same.
    rotation.niter = rotation.niter_pq_0 = _ROTATIONS if groups > 1 else 1
    rotation.max_train_points = _CODES * _TRAINING_ROWS_A_CODE
    trained_with = faiss.ProductQuantizer(width, groups, 8)
    trained_with.cp.min_points_per_centroid = 1
    rotation.pq = trained_with
    rotation.train(sample)
    rotation.pq = None
    return rotation


def _seeded(index: Any, config: IndexConfig) -> Any:
    index.cp.seed = config.seed + 1
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = _TRAINING_ROWS_A_LIST
    return index

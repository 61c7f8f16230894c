"""A graph of neighbours (HNSW) that is walked towards the query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recsys.index.approximate import FEW_ALLOWED, ApproximateSearch, blocks, read_index, scale_for
from recsys.index.config import IndexConfig, IndexReport
from recsys.index.dots import lengths, unit
from recsys.index.exact import ExactSearch
from recsys.index.similarity import mips_items, mips_queries
from recsys.types import Floats

_ROWS_A_STEP = 150
"""Exact search scores so many rows while a graph takes one step: random reads against a stream."""
_ABOUT_EQUAL = 1e-5
_Hnsw: Any = faiss.IndexHNSWSQ
_Walk: Any = getattr(faiss, "SearchParametersHNSW")  # noqa: B009 (FAISS's stubs lack it)


class Graph(ApproximateSearch):
    """Engine over faiss.IndexHNSWSQ (fp16, squared distance); its effort is the number of nodes held (efSearch).

    A graph is good at the nearest, and poor at the largest dot product, for which a point is not its own nearest
    neighbour: so vectors get one more coordinate that makes them equally long, and the two orders are one
    (`similarity.mips_items`). HNSW: Malkov and Yashunin, PAMI 2020.
    """

    @classmethod
    def build(cls, exact: ExactSearch, config: IndexConfig) -> Graph:
        """Inserts the vectors one after the other; with several threads the links depend on who came first.

        Args:
            exact: over the (N, d) vectors to insert.
            config: `links` and `ef_construction` are taken from it.
        """
        count, dim = exact.vectors.shape
        scale = scale_for(exact.longest)
        longer = exact.metric != "l2" and not _equally_long(exact)
        index = _Hnsw(dim + longer, faiss.ScalarQuantizer.QT_fp16, config.links, faiss.METRIC_L2)
        index.hnsw.efConstruction = config.ef_construction
        index.is_trained = True
        for block in blocks(count):
            vectors = exact.centred(exact.vectors[block]) * np.float32(scale)
            index.add(mips_items(vectors, exact.longest * scale) if longer else vectors)
        return cls(index, exact, scale)

    @property
    def most(self) -> int:
        """As many nodes as exact search would take longer for."""
        return max(1, int(self.faiss_index.ntotal) // max(_ROWS_A_STEP, 1))

    def laid(self, queries: Floats) -> Floats:
        """A query of length 1, as vectors are at most: distances then keep the digits that tell products apart."""
        if self.exact.metric == "l2":
            return self.exact.centred(queries) * np.float32(self.scale)
        if self.exact.metric == "dot":
            queries = unit(queries, lengths(queries, "query"))
        return mips_queries(queries) if self.faiss_index.d > queries.shape[1] else queries

    def _exact_is_faster(self, k: int, eligible: int, filtered: bool, effort: int) -> bool:
        return (filtered and eligible <= FEW_ALLOWED) or max(effort, k) * _ROWS_A_STEP >= eligible

    def least(self, k: int) -> int:
        """A walk holds no fewer nodes than it is to find."""
        return k

    def _parameters(self, effort: int, selector: Any = None) -> Any:
        return _Walk(efSearch=effort, sel=selector)

    def settings(self) -> dict[str, int]:
        """See `ApproximateSearch.settings`."""
        return {"links": int(self.faiss_index.hnsw.nb_neighbors(1)), "ef_search": self.effort}

    @classmethod
    def open(cls, path: Path, exact: ExactSearch, report: IndexReport) -> Graph:
        """Maps links and codes into memory, shared with every other process that does.

        Raises:
            BundleError: when FAISS cannot read the file.
        """
        engine = cls(read_index(path, faiss.IO_FLAG_MMAP_IFC), exact, report.scale)
        engine.effort, engine.growth, engine.candidates = report.ef_search, report.probe_growth, report.candidates
        return engine


def _equally_long(exact: ExactSearch) -> bool:
    shortest = float(lengths(exact.vectors, "vector").min())
    return shortest >= exact.longest * (1 - _ABOUT_EQUAL)

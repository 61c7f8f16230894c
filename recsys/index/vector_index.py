"""VectorIndex: the best k eligible rows by dot product, cosine or distance, with exact scores."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np

from recsys.errors import ConfigError, DataError, FeatureMismatchError, PreconditionError, RequestError
from recsys.index.approximate import TUNED_FOR, ApproximateSearch
from recsys.index.config import FLAT_AFTER_ALL_UP_TO, FLAT_UP_TO, Device, IndexConfig, IndexReport, Kind
from recsys.index.dots import as_matrix, exact_scores, lengths, unit
from recsys.index.engine import Engine, bounds_of
from recsys.index.exact import ExactSearch
from recsys.index.files import open_parts, save_parts
from recsys.index.gpu import GpuSearch, use_gpu
from recsys.index.graph import Graph
from recsys.index.inverted_file import InvertedFile
from recsys.index.ordering import best_first
from recsys.index.recall import recall_at
from recsys.index.tuning import remedy, tune
from recsys.types import Floats, Offsets, RaggedRows, RowMask, Rows

log = logging.getLogger(__name__)


class VectorIndex:
    """The vectors of a catalogue and a way to search them.

    An engine proposes eligible rows; this class scores them with the exact vectors and orders them by
    (score descending, row ascending). So a score does not depend on the kind of index, the size of the
    batch or the device.

    Args:
        vectors: (N, d) float32, finite, of length 1 for cosine; row r belongs to catalogue row r.
        engine: what proposes.
        report: what it was measured to be.
    """

    def __init__(self, vectors: Floats, engine: ExactSearch | ApproximateSearch, report: IndexReport) -> None:
        self._vectors = vectors
        self._processor = engine
        self._engine: Engine = engine
        self._approximate = engine if isinstance(engine, ApproximateSearch) else None
        self.report = report

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dim(self) -> int:
        """Columns of the vectors."""
        return int(self._vectors.shape[1])

    @classmethod
    def build(
        cls, vectors: Floats, config: IndexConfig | None = None, queries: Floats | None = None
    ) -> tuple[VectorIndex, IndexReport]:
        """Indexes vectors, and measures what the index finds of what exact search finds.

        Args:
            vectors: (N, d); N may be 0.
            config: what to build; the defaults when None.
            queries: (Q, d) a sample of real query vectors (users of the validation set, say), which the
                effort of a search is tuned on; a sample of the items when None.

        Raises:
            DataError: for a matrix that is none, or a vector that is not finite.
            ConfigError: for codes of more bytes than a vector has columns.
            MissingPartError: for device = cuda without a GPU.
            PreconditionError: with `strict`, for a recall below the target.
        """
        config = config or IndexConfig()
        started = time.monotonic()
        vectors = as_matrix(vectors, "vectors")
        norms = lengths(vectors, "vector")
        if config.metric == "cosine":
            vectors = unit(vectors, norms)
        exact = ExactSearch(vectors, config.metric)
        given = queries is not None and len(queries) > 0
        sample = _sample(queries if queries is not None and given else vectors, config)
        index = cls._of_kind(_kind(config, len(vectors)), exact, sample, config)
        if config.kind == "auto" and index._misses(config.recall_target) and len(index) <= FLAT_AFTER_ALL_UP_TO:
            index = cls._of_kind("flat", exact, sample, config)
        index.report = index.report.model_copy(
            update={"query_source": "users" if given else "items", "build_seconds": time.monotonic() - started}
        )
        index._keep_promise(config)
        return index, index.report

    @classmethod
    def _of_kind(cls, kind: Kind, exact: ExactSearch, sample: Floats, config: IndexConfig) -> VectorIndex:
        """Built, tuned, on its device, measured."""
        config = config.model_copy(update={"kind": kind})
        engine: ExactSearch | ApproximateSearch = exact
        if kind in ("ivf", "ivfpq"):
            engine = InvertedFile.build(exact, config)
        elif kind == "hnsw":
            engine = Graph.build(exact, config)
        count, dim = exact.vectors.shape
        report = IndexReport(
            kind=kind,
            metric=config.metric,
            count=count,
            dim=dim,
            lists=0,
            probes=0,
            recall_at_100=1.0,
            recall_target=config.recall_target,
            queries=len(sample),
            query_source="items",
            build_seconds=0.0,
            bytes_per_item=4 * dim,
            memory_bytes_per_item=4 * dim,
            device="cpu",
        )
        index = cls(exact.vectors, engine, report)
        index._tune(exact, sample, config)
        index._place(config.device)
        index._measure(exact, sample)
        return index

    def _tune(self, exact: ExactSearch, sample: Floats, config: IndexConfig) -> None:
        """Sets what a search reads, and writes it into the report."""
        engine = self._approximate
        if engine is None:
            return
        truth: dict[tuple[int, int | None], Floats] = {}

        def recall(k: int, queries: int | None) -> float:
            if (k, queries) not in truth:
                truth[k, queries] = self._with(exact).search(sample[:queries], k)[1]
            return recall_at(self.search(sample[:queries], k)[1], truth[k, queries])

        tune(engine, config, recall)
        own = engine.size() / len(self)
        self.report = self.report.model_copy(
            update={
                **engine.settings(),
                "candidates": engine.candidates,
                "probe_growth": round(engine.growth, 3),
                "scale": engine.scale,
                "bytes_per_item": round(self.dim * 4 + own, 1),
                "memory_bytes_per_item": round(own, 1),
            }
        )

    def _with(self, engine: ExactSearch) -> VectorIndex:
        """The same vectors, searched by another engine."""
        return VectorIndex(self._vectors, engine, self.report)

    def _place(self, device: Device) -> None:
        """Moves the search to a GPU where that is asked for and possible."""
        if self.report.kind == "hnsw":
            if device == "cuda":
                raise ConfigError(
                    "device = cuda: FAISS walks a graph on processors only; use kind = ivf or device = cpu"
                )
        elif use_gpu(device) and len(self):
            self._engine = GpuSearch(self._processor)
            self.report = self.report.model_copy(update={"device": "cuda"})

    def _measure(self, exact: ExactSearch, sample: Floats) -> None:
        """Measures recall as the index now stands."""
        if self._engine is not exact and len(sample):
            truth = self._with(exact).search(sample, TUNED_FOR)[1]
            recall = recall_at(self.search(sample, TUNED_FOR)[1], truth)
            self.report = self.report.model_copy(update={"recall_at_100": recall})

    def _misses(self, target: float) -> bool:
        """Whether it finds less of what exact search finds than a target."""
        return self.report.recall_at_100 < target

    def _keep_promise(self, config: IndexConfig) -> None:
        """Warns of an index below its target, or refuses it."""
        if not self._misses(config.recall_target):
            return
        warning = (
            f"recall@100 of the index is {self.report.recall_at_100:.4f}, below the target of {config.recall_target}; "
            f"{remedy(self.report)}, lower recall_target, or use kind = flat"
        )
        if config.strict:
            raise PreconditionError(warning)
        log.warning("%s", warning)
        self.report = self.report.model_copy(update={"warning": warning})

    def as_queries(self, queries: Floats) -> Floats:
        """(B, d) query vectors as the index compares them: float32, scaled to length 1 for cosine.

        Raises:
            DataError: for a wrong dimension or a query that is not finite.
        """
        queries = as_matrix(queries, "queries")
        if queries.shape[1] != self.dim:
            raise DataError(f"queries have {queries.shape[1]} columns; the vectors of the index have {self.dim}")
        norms = lengths(queries, "query")
        return unit(queries, norms) if self.report.metric == "cosine" else queries

    def search(
        self, queries: Floats, k: int, allowed: RowMask | None = None, excluded: RaggedRows | None = None
    ) -> tuple[Rows, Floats]:
        """The best k eligible rows of each query, by (score descending, row ascending).

        Args:
            queries: (B, d).
            k: at least 1; may exceed N.
            allowed: rows that any query may have; None = all.
            excluded: B lists of rows that query b may not have.

        Returns:
            Rows (B, k) int32, padded with -1 only where fewer than k are eligible, and their exact
            scores (B, k) float32, padded with -inf.

        Raises:
            RequestError: for k below 1.
            DataError: for a wrong dimension, a query that is not finite, or B lists that are not B.
            FeatureMismatchError: for a mask over another number of rows.
        """
        return self.search_as_queries(self.as_queries(queries), k, allowed, excluded)

    def search_as_queries(
        self, queries: Floats, k: int, allowed: RowMask | None = None, excluded: RaggedRows | None = None
    ) -> tuple[Rows, Floats]:
        """`search` for queries that `as_queries` has given: they are not checked and scaled a second time."""
        return self.search_groups(queries, None, k, allowed, excluded)

    def search_groups(
        self,
        queries: Floats,
        groups: Offsets | None,
        k: int,
        allowed: RowMask | None = None,
        excluded: RaggedRows | None = None,
    ) -> tuple[Rows, Floats]:
        """The best k eligible rows of each group of queries; a row's score is the greatest that one of them gives it.

        What is among the best k by the greatest score is among the best k of the query that gives it, so that the
        queries' own proposals hold the answer: with an exact index it is that of brute force.

        Args:
            queries: (B, d) as `as_queries` gives them.
            groups: (G+1,) offsets: group g is queries groups[g]…groups[g + 1] - 1, at least one; None = each query is
                a group of its own.
            k: at least 1; may exceed N.
            allowed: rows that any group may have; None = all.
            excluded: G lists of rows that group g may not have.

        Returns:
            Rows and scores (G, k) as of `search`.

        Raises:
            RequestError, DataError, FeatureMismatchError: as `search` does.
        """
        if k < 1:
            raise RequestError("k", k, "must be at least 1")
        if allowed is not None and len(allowed.allowed) != len(self):
            raise FeatureMismatchError(f"the mask has {len(allowed.allowed)} rows, the index {len(self)}")
        bounds = bounds_of(queries, groups)
        count = len(bounds)
        if excluded is not None and len(excluded) != count:
            raise DataError(f"there are {len(excluded)} lists of excluded rows for {count} queries")
        rows = np.full((count, k), -1, np.int32)
        scores = np.full((count, k), -np.inf, np.float32)
        if not len(self):
            return rows, scores
        proposals = self._engine.propose(queries, k, None if allowed is None else allowed.allowed, excluded, groups)
        for g, (start, stop) in enumerate(bounds):
            proposed = proposals[g]
            exact = self.best_scores(proposed, queries[start:stop])
            best = best_first(exact)[:k]
            rows[g, : len(best)] = proposed[best]
            scores[g, : len(best)] = exact[best]
        return rows, scores

    def scores(self, rows: Rows, query: Floats) -> Floats:
        """(M,) exact scores of the given rows for one (d,) query as `as_queries` gives it."""
        return self.best_scores(rows, query[None])

    def best_scores(self, rows: Rows, queries: Floats) -> Floats:
        """(M,) for each of the given rows the greatest exact score of (K, d) queries as `as_queries` gives them."""
        vectors = self._vectors.take(rows, axis=0)
        best = exact_scores(self.report.metric, vectors, queries[0])
        for query in queries[1:]:
            np.maximum(best, exact_scores(self.report.metric, vectors, query), out=best)
        return best

    def reading(self, effort: int, candidates: float = 1.0) -> VectorIndex:
        """The same index, searched with another effort than it was tuned to.

        Args:
            effort: lists that a search for 100 rows reads, or nodes that it holds; nothing to a flat index.
            candidates: of `ivfpq`: rows proposed for each row asked for.
        """
        if self._approximate is None:
            return self
        engine = self._approximate.reading(effort, candidates)
        report = self.report.model_copy(update={**engine.settings(), "candidates": candidates, "device": "cpu"})
        index = VectorIndex(self._vectors, engine, report)
        index._place("cuda" if self.report.device == "cuda" else "cpu")
        return index

    def vectors(self, rows: Rows | None = None) -> Floats:
        """(M, d) exact vectors of the given rows; all (N, d), without a copy, when None."""
        return self._vectors if rows is None else self._vectors.take(rows, axis=0)

    def save(self, directory: Path) -> None:
        """Writes the index into `directory`; `index.json` last, so that an index with it is whole."""
        self.report = save_parts(directory, self._vectors, self._approximate, self.report)

    @classmethod
    def open(cls, directory: Path, device: Device = "auto") -> VectorIndex:
        """Opens a saved index with its vectors and lists memory-mapped.

        Raises:
            BundleError: names the file that is missing, truncated or of another shape than `index.json` says.
            MissingPartError: for device = cuda without a GPU.
        """
        vectors, engine, report = open_parts(directory)
        index = cls(vectors, engine, report.model_copy(update={"device": "cpu"}))
        index._place(device)
        return index


def _kind(config: IndexConfig, count: int) -> Kind:
    """What to build over so many rows; nothing needs no lists."""
    if not count:
        return "flat"
    if config.kind == "auto":
        return "flat" if count <= FLAT_UP_TO else "ivf"
    return config.kind


def _sample(queries: Floats, config: IndexConfig) -> Floats:
    """At most `tuning_queries` of the vectors, drawn without replacement."""
    chosen = np.random.default_rng(config.seed).permutation(len(queries))[: config.tuning_queries]
    return np.ascontiguousarray(queries[np.sort(chosen)], np.float32)

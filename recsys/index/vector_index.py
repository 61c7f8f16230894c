"""VectorIndex: the best k eligible rows by dot product or cosine, with exact scores."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from recsys.config import parse_config
from recsys.errors import BundleError, ConfigError, DataError, FeatureMismatchError, PreconditionError, RequestError
from recsys.files import replacing, write_text
from recsys.index.config import FLAT_UP_TO, Device, IndexConfig, IndexReport, Kind
from recsys.index.dots import as_matrix, dots, lengths, unit
from recsys.index.engine import Engine
from recsys.index.exact import ExactSearch
from recsys.index.gpu import GpuSearch, flat_on_processor, use_gpu
from recsys.index.inverted_file import TUNED_FOR, InvertedFile, lists_for
from recsys.index.recall import least_probes, recall_at
from recsys.types import Floats, RaggedRows, RowMask, Rows

_REPORT, _VECTORS, _LISTS = "index.json", "vectors.npy", "lists.faiss"
_DEEP, _DEEP_QUERIES = 1_000, 100

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

    def __init__(self, vectors: Floats, engine: Engine, report: IndexReport) -> None:
        self._vectors = vectors
        self._engine = engine
        self._inverted: InvertedFile | None = engine if isinstance(engine, InvertedFile) else None
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
                number of probes is tuned on; a sample of the items when None.

        Raises:
            DataError: for a matrix that is none, or a vector that is not finite.
            MissingPartError: for device = cuda without a GPU.
            PreconditionError: with `strict`, for a recall below the target.
        """
        config = config or IndexConfig()
        started = time.monotonic()
        vectors = as_matrix(vectors, "vectors")
        norms = lengths(vectors, "vector")
        if config.metric == "cosine":
            vectors = unit(vectors, norms)
        kind: Kind = ("flat" if len(vectors) <= FLAT_UP_TO else "ivf") if config.kind == "auto" else config.kind
        exact = ExactSearch(vectors)
        sample = _sample(queries if queries is not None and len(queries) else vectors, config)
        inverted = None
        if kind == "ivf" and len(vectors):
            lists = min(config.lists or lists_for(len(vectors)), len(vectors))
            inverted = InvertedFile.build(vectors, exact, lists, config.seed)
        report = IndexReport(
            kind="flat" if inverted is None else "ivf",
            metric=config.metric,
            count=len(vectors),
            dim=vectors.shape[1],
            lists=inverted.lists if inverted else 0,
            probes=0,
            recall_at_100=1.0,
            recall_target=config.recall_target,
            queries=len(sample),
            query_source="items" if queries is None or not len(queries) else "users",
            build_seconds=0.0,
            bytes_per_item=vectors.shape[1] * (4 if inverted is None else 6) + (0 if inverted is None else 8),
            device="cpu",
        )
        index = cls(vectors, inverted or exact, report)
        index._tune(exact, sample, config)
        index._place(config.device)
        index._judge(exact, sample, config, started)
        return index, index.report

    def _tune(self, exact: ExactSearch, sample: Floats, config: IndexConfig) -> None:
        """Sets how many lists are read: those asked for, else the fewest that meet the target on the sample.

        Found for 100 rows, and on fewer queries for 1,000: how the one grows into the other is a matter
        of the vectors too, and large k and filters are searched by it.
        """
        inverted = self._inverted
        if inverted is None:
            return
        if config.probes is not None:
            inverted.probes = min(config.probes, inverted.lists)
        else:
            most = max(1, int(inverted.lists * config.probe_limit))
            inverted.growth = 0.0
            deep = self._least(exact, sample[:_DEEP_QUERIES], _DEEP, config.recall_target, most)
            inverted.probes = self._least(exact, sample, TUNED_FOR, config.recall_target, most)
            inverted.growth = math.log(max(1.0, deep / inverted.probes)) / math.log(_DEEP / TUNED_FOR)
        self.report = self.report.model_copy(
            update={"probes": inverted.probes, "probe_growth": round(inverted.growth, 3)}
        )

    def _least(self, exact: ExactSearch, sample: Floats, k: int, target: float, most: int) -> int:
        truth = VectorIndex(self._vectors, exact, self.report).search(sample, k)[1]

        def reaches(probes: int) -> bool:
            assert self._inverted is not None
            self._inverted.probes = probes
            return recall_at(self.search(sample, k)[1], truth) >= target

        return least_probes(reaches, most)

    def _place(self, device: Device) -> None:
        """Moves the search to a GPU where that is asked for and possible."""
        if len(self) and use_gpu(device):
            source = flat_on_processor(self._vectors) if self._inverted is None else self._inverted.faiss_index
            self._engine = GpuSearch(source, self._engine, self.report.probes)
            self.report = self.report.model_copy(update={"device": "cuda"})
        elif device == "cuda":
            use_gpu(device)

    def _judge(self, exact: ExactSearch, sample: Floats, config: IndexConfig, started: float) -> None:
        """Measures recall as the index now stands, and warns or refuses."""
        recall = 1.0
        if self._engine is not exact and len(sample):
            truth = VectorIndex(self._vectors, exact, self.report).search(sample, TUNED_FOR)[1]
            recall = recall_at(self.search(sample, TUNED_FOR)[1], truth)
        warning = None
        if recall < config.recall_target:
            warning = (
                f"recall@100 of the index is {recall:.4f}, below the target of {config.recall_target} "
                f"(it reads {self.report.probes} of {self.report.lists} lists): raise probe_limit, lower "
                "recall_target, or use kind = flat"
            )
            if config.strict:
                raise PreconditionError(warning)
            log.warning("%s", warning)
        seconds = time.monotonic() - started
        self.report = self.report.model_copy(
            update={"recall_at_100": recall, "warning": warning, "build_seconds": seconds}
        )

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
        if k < 1:
            raise RequestError("k", k, "must be at least 1")
        queries = self.as_queries(queries)
        if allowed is not None and len(allowed.allowed) != len(self):
            raise FeatureMismatchError(f"the mask has {len(allowed.allowed)} rows, the index {len(self)}")
        if excluded is not None and len(excluded) != len(queries):
            raise DataError(f"there are {len(excluded)} lists of excluded rows for {len(queries)} queries")
        rows = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        if not len(self):
            return rows, scores
        proposals = self._engine.propose(queries, k, None if allowed is None else allowed.allowed, excluded)
        for b, proposed in enumerate(proposals):
            exact = dots(self._vectors.take(proposed, axis=0), queries[b])
            best = np.argsort(-exact, kind="stable")[:k]
            rows[b, : len(best)] = proposed[best]
            scores[b, : len(best)] = exact[best]
        return rows, scores

    def vectors(self, rows: Rows | None = None) -> Floats:
        """(M, d) exact vectors of the given rows; all (N, d), without a copy, when None."""
        return self._vectors if rows is None else self._vectors.take(rows, axis=0)

    def save(self, directory: Path) -> None:
        """Writes the index into `directory`; `index.json` last, so that an index with it is whole."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _REPORT).unlink(missing_ok=True)
        with replacing(directory / _VECTORS) as temporary, temporary.open("wb") as file:
            np.save(file, self._vectors, allow_pickle=False)
        if self._inverted is not None:
            with replacing(directory / _LISTS) as temporary:
                self._inverted.save(temporary)
            self.report = self.report.model_copy(update={"lists_bytes": (directory / _LISTS).stat().st_size})
        write_text(directory / _REPORT, json.dumps(self.report.model_dump(), indent=2) + "\n")

    @classmethod
    def open(cls, directory: Path, device: Device = "auto") -> VectorIndex:
        """Opens a saved index with its vectors and lists memory-mapped.

        Raises:
            BundleError: names the file that is missing, truncated or of another shape than `index.json` says.
            MissingPartError: for device = cuda without a GPU.
        """
        report = _read_report(directory / _REPORT)
        vectors = _map_vectors(directory / _VECTORS, report)
        exact = ExactSearch(vectors)
        engine: Engine = exact
        if report.kind == "ivf":
            engine = _map_lists(directory / _LISTS, exact, report)
        index = cls(vectors, engine, report.model_copy(update={"device": "cpu"}))
        index._place(device)
        return index


def _sample(queries: Floats, config: IndexConfig) -> Floats:
    """At most `tuning_queries` of the vectors, drawn without replacement."""
    chosen = np.random.default_rng(config.seed).permutation(len(queries))[: config.tuning_queries]
    return np.ascontiguousarray(queries[np.sort(chosen)], np.float32)


def _read_report(path: Path) -> IndexReport:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        return parse_config(IndexReport, values, str(path))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); build the index again") from None
    except (ValueError, TypeError, ConfigError) as error:
        raise BundleError(f"{path}: not the description of an index ({error})") from None


def _map_vectors(path: Path, report: IndexReport) -> Floats:
    try:
        vectors = np.load(path, mmap_mode="r" if report.count else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: missing or truncated; build the index again ({error})") from None
    if vectors.shape != (report.count, report.dim) or vectors.dtype != np.float32:
        raise BundleError(
            f"{path}: holds {vectors.dtype} {vectors.shape}, index.json says float32 {(report.count, report.dim)}"
        )
    return np.asarray(vectors)


def _map_lists(path: Path, exact: ExactSearch, report: IndexReport) -> InvertedFile:
    size = path.stat().st_size if path.is_file() else 0
    if size != report.lists_bytes:
        raise BundleError(f"{path}: missing or truncated, {size} of {report.lists_bytes} bytes; build the index again")
    inverted = InvertedFile.open(path, exact, report.probes, report.probe_growth)
    found = (inverted.faiss_index.ntotal, inverted.faiss_index.d, inverted.lists)
    said = (report.count, report.dim, report.lists)
    if found != said:
        raise BundleError(f"{path}: holds (vectors, columns, lists) {found}, index.json says {said}")
    return inverted

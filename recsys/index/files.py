"""An index on disk: `index.json`, the exact vectors, and the lists or the graph of an approximate engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from recsys.config import parse_config
from recsys.errors import BundleError, ConfigError
from recsys.files import replacing, write_text
from recsys.index.approximate import ApproximateSearch
from recsys.index.config import IndexReport
from recsys.index.exact import ExactSearch
from recsys.index.graph import Graph
from recsys.index.inverted_file import InvertedFile
from recsys.types import Floats

REPORT: Final = "index.json"
_VECTORS: Final = "vectors.npy"
_ENGINES: Final[dict[str, tuple[str, type[InvertedFile] | type[Graph]]]] = {
    "ivf": ("lists.faiss", InvertedFile),
    "ivfpq": ("lists.faiss", InvertedFile),
    "hnsw": ("graph.faiss", Graph),
}


def save_parts(directory: Path, vectors: Floats, engine: ApproximateSearch | None, report: IndexReport) -> IndexReport:
    """Writes an index, `index.json` last, and returns the report that was written."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / REPORT).unlink(missing_ok=True)
    with replacing(directory / _VECTORS) as temporary, temporary.open("wb") as file:
        np.save(file, vectors, allow_pickle=False)
    if engine is not None:
        path = directory / _ENGINES[report.kind][0]
        with replacing(path) as temporary:
            engine.save(temporary)
        report = report.model_copy(update={"lists_bytes": path.stat().st_size})
    write_text(directory / REPORT, json.dumps(report.model_dump(), indent=2) + "\n")
    return report


def open_parts(directory: Path) -> tuple[Floats, ExactSearch | ApproximateSearch, IndexReport]:
    """The mapped vectors of a saved index, its engine and its report.

    Raises:
        BundleError: names the file that is missing, truncated or of another shape than `index.json` says.
    """
    report = _read_report(directory / REPORT)
    vectors = _map_vectors(directory / _VECTORS, report)
    exact = ExactSearch(vectors, report.metric)
    if report.kind == "flat":
        return vectors, exact, report
    return vectors, _map_engine(directory, exact, report), report


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


def _map_engine(directory: Path, exact: ExactSearch, report: IndexReport) -> ApproximateSearch:
    name, kind = _ENGINES[report.kind]
    path = directory / name
    size = path.stat().st_size if path.is_file() else 0
    if size != report.lists_bytes:
        raise BundleError(f"{path}: missing or truncated, {size} of {report.lists_bytes} bytes; build the index again")
    engine = kind.open(path, exact, report)
    found = {"count": engine.faiss_index.ntotal, **engine.settings()}
    said = report.model_dump(include=set(found))
    if found != said:
        raise BundleError(f"{path}: holds {found}, index.json says {said}")
    return engine

"""Figures of one index: as tuned, and over its settings; built once, searched as a server does, memory-mapped."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np

from recsys.index.config import Device, IndexConfig, IndexReport, Kind
from recsys.index.files import REPORT
from recsys.index.recall import recall_at
from recsys.index.vector_index import VectorIndex
from recsys.types import Floats, RaggedRows
from services.cli.bench.index_worlds import World

K: Final = 100
_EXCLUDED: Final = 200
_RECALL_QUERIES: Final = 300
_TIMED_QUERIES: Final = 100
_MOST_READ: Final = 0.25
"""The sweep reads at most this share of the lists."""
_CANDIDATES: Final = (2.0, 4.0, 8.0, 16.0)
_MOST_NODES: Final = 3_200


@dataclass(frozen=True, slots=True)
class Task:
    """One index to measure.

    Attributes:
        kind: of the index.
        device: where to search.
        threads: to build with.
        pq_bytes: of a code of `ivfpq`; None = the default.
        out: where to keep the index; with it settings are swept too.
    """

    kind: Kind
    device: Device
    threads: int
    pq_bytes: int | None
    out: Path | None


def measure(world: World, task: Task) -> dict[str, Any]:
    """Builds and saves an index, or finds it kept, opens it and searches it; `points` are those of the sweep."""
    with _folder(world, task) as folder:
        if not _kept(folder, world):
            _build(world, task).save(folder)
        opened = VectorIndex.open(folder, task.device)
        with _threads(1):
            figures = _as_tuned(opened, world.users)
            if task.out is not None:
                figures["points"] = _sweep(opened, world)
    return figures


@contextmanager
def _folder(world: World, task: Task) -> Iterator[Path]:
    if task.out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    size = "" if task.pq_bytes is None else f"-{task.pq_bytes}"
    yield task.out / "indexes" / f"{world.slug}-{task.kind}{size}"


def _kept(folder: Path, world: World) -> bool:
    """Whether an index over these very vectors is there from another time."""
    if not (folder / REPORT).is_file():
        return False
    kept = VectorIndex.open(folder, "cpu")
    return kept.report.metric == world.metric and np.array_equal(kept.vectors(), world.items)


def _build(world: World, task: Task) -> VectorIndex:
    config = IndexConfig(kind=task.kind, metric=world.metric, device=task.device, pq_bytes=task.pq_bytes)
    with _threads(task.threads):
        return VectorIndex.build(world.items, config, world.users if world.source == "users" else None)[0]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _as_tuned(opened: VectorIndex, users: Floats) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    seen = rng.integers(0, len(opened), (len(users), min(_EXCLUDED, len(opened) // 2))).astype(np.int32)
    alone, with_exclusions = one_by_one(opened, users), one_by_one(opened, users, list(seen))
    started = time.perf_counter()
    opened.search(users, K, None, RaggedRows.of(list(seen)))
    batch = (time.perf_counter() - started) / len(users) * 1e6
    report = opened.report
    kept = {"kind", "device", "lists", "probes", "pq_bytes", "candidates", "links", "ef_search", "recall_at_100"}
    return {
        "name": report.kind + (f" {report.pq_bytes}" if report.pq_bytes else ""),
        **report.model_dump(include=kept | {"bytes_per_item", "memory_bytes_per_item", "warning"}),
        "setting": _setting(report),
        "build_seconds": round(report.build_seconds, 2),
        "micros_per_query": round(statistics.median(alone), 1),
        "micros_per_query_p99": round(statistics.quantiles(alone, n=100)[98] if len(alone) > 1 else alone[0], 1),
        "micros_per_query_200_excluded": round(statistics.median(with_exclusions), 1),
        "micros_per_query_in_batch_200_excluded": round(batch, 1),
    }


def _setting(report: IndexReport) -> str:
    """What a search reads, in words."""
    match report.kind:
        case "flat":
            return "everything"
        case "hnsw":
            return f"{report.ef_search} nodes"
        case "ivf":
            return f"{report.probes} of {report.lists} lists"
        case "ivfpq":
            return f"{report.probes} of {report.lists} lists, {report.candidates:g} rows for each"


def _sweep(opened: VectorIndex, world: World) -> list[dict[str, float]]:
    """Recall and microseconds at every setting."""
    sample = world.users[:_RECALL_QUERIES]
    truth = VectorIndex.build(world.items, IndexConfig(kind="flat", metric=world.metric, device="cpu"))[0]
    exact = truth.search(sample, K)[1]
    points = []
    for effort, candidates in _settings(opened.report):
        index = opened.reading(effort, candidates)
        recall = recall_at(index.search(sample, K)[1], exact)
        micros = statistics.median(one_by_one(index, world.users[:_TIMED_QUERIES]))
        points.append({"effort": effort, "candidates": candidates, "recall": recall, "micros": round(micros, 1)})
    return points


def _settings(report: IndexReport) -> list[tuple[int, float]]:
    """(effort, candidates): doubled from the least on."""
    if report.kind == "flat":
        return [(1, 1.0)]
    least, most = (K, _MOST_NODES) if report.kind == "hnsw" else (1, max(1, int(report.lists * _MOST_READ)))
    efforts = [least << i for i in range(32) if least << i <= most]
    return list(product(efforts, _CANDIDATES if report.kind == "ivfpq" else (1.0,)))


def one_by_one(index: VectorIndex, users: Floats, seen: list[Any] | None = None) -> list[float]:
    """Microseconds of each search, one query at a time, after some that are not counted."""
    lists = [None if seen is None else RaggedRows.of([seen[b]]) for b in range(len(users))]
    for b in range(min(20, len(users))):
        index.search(users[b : b + 1], K, None, lists[b])
    micros = []
    for b in range(len(users)):
        started = time.perf_counter()
        index.search(users[b : b + 1], K, None, lists[b])
        micros.append((time.perf_counter() - started) * 1e6)
    return micros

"""The logic around a GPU index, with a processor's index in its place: what it cannot do goes to the processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import pytest

from recsys.errors import ConfigError, MissingPartError
from recsys.index.config import IndexConfig
from recsys.index.exact import ExactSearch
from recsys.index.gpu import GpuSearch, use_gpu
from recsys.index.vector_index import VectorIndex
from recsys.testing.index_contract import VectorIndexContract
from recsys.types import Bools, Floats, Offsets, RaggedRows, Rows


class FewAnswers:
    """A FAISS index with the limit of a GPU's: no selectors, at most 2,048 answers."""

    def __init__(self, index: Any) -> None:
        self.index, self.ntotal = index, index.ntotal

    def search(self, queries: Floats, k: int) -> Any:
        assert k <= 2048
        return self.index.search(queries, k)


class ParameterSpace:
    def set_index_parameter(self, index: FewAnswers, name: str, value: int) -> None:
        setattr(faiss.extract_index_ivf(index.index), name, value)


@pytest.fixture(scope="module", autouse=True)
def pretended_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss, "StandardGpuResources", object, raising=False)
        patch.setattr(faiss, "GpuParameterSpace", ParameterSpace, raising=False)
        patch.setattr(faiss, "index_cpu_to_gpu", lambda resources, device, index: FewAnswers(index), raising=False)
        patch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
        yield


class TestFlatOnPretendedGpu(VectorIndexContract):
    config = IndexConfig(kind="flat", device="cuda")
    ties_by_row = False


class TestInvertedFileOnPretendedGpu(VectorIndexContract):
    config = IndexConfig(kind="ivf", lists=5, probes=5, tuning_queries=5, device="cuda")
    ties_by_row = False


class TestProductQuantisedOnPretendedGpu(VectorIndexContract):
    config = IndexConfig(kind="ivfpq", lists=5, probes=5, pq_bytes=1, candidates=1000, tuning_queries=5, device="cuda")
    ties_by_row = False


class Recording(ExactSearch):
    """An engine on the processor that remembers for which k it was asked."""

    def __init__(self, vectors: Floats) -> None:
        super().__init__(vectors)
        self.asked: list[int] = []

    def propose(
        self,
        queries: Floats,
        k: int,
        allowed: Bools | None,
        excluded: RaggedRows | None,
        groups: Offsets | None = None,
    ) -> list[Rows]:
        self.asked.append(k)
        return [np.arange(k, dtype=np.int32)] * len(queries)


@pytest.mark.parametrize(
    ("k", "hidden", "filtered", "elsewhere"),
    [
        (100, 0, False, False),
        (100, 500, False, False),
        (100, 0, True, True),
        (100, 2_000, False, True),
        (3_000, 0, False, True),
    ],
)
def test_filters_and_large_searches_go_to_the_processor(k: int, hidden: int, filtered: bool, elsewhere: bool) -> None:
    vectors = np.random.default_rng(0).standard_normal((5_000, 4), dtype=np.float32)
    fallback = Recording(vectors)
    search = GpuSearch(fallback)
    allowed = np.ones(5_000, bool) if filtered else None
    rows = search.propose(vectors[:1], k, allowed, RaggedRows.of([np.arange(hidden)]))[0]
    assert len(rows) >= k
    assert fallback.asked == ([k] if elsewhere else [])


def test_a_copy_that_lost_vectors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(resources: object, device: int, index: Any) -> FewAnswers:
        copy = FewAnswers(index)
        copy.ntotal = 0
        return copy

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lose)
    with pytest.raises(MissingPartError, match="holds 0 of 10 vectors"):
        VectorIndex.build(np.ones((10, 4), np.float32), IndexConfig(device="cuda"))


def test_auto_takes_a_gpu_that_is_there_and_cuda_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert use_gpu("auto")
    assert not use_gpu("cpu")
    report = VectorIndex.build(np.ones((10, 4), np.float32), IndexConfig(device="auto"))[1]
    assert report.device == "cuda"
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert not use_gpu("auto")
    with pytest.raises(MissingPartError, match="sees no GPU"):
        use_gpu("cuda")


def test_a_graph_stays_on_the_processor_and_says_so() -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 4), dtype=np.float32)
    assert VectorIndex.build(vectors, IndexConfig(kind="hnsw", device="auto"))[1].device == "cpu"
    with pytest.raises(ConfigError, match="on processors only"):
        VectorIndex.build(vectors, IndexConfig(kind="hnsw", device="cuda"))


def test_what_faiss_cannot_copy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(resources: object, device: int, index: Any) -> FewAnswers:
        raise RuntimeError("Number of bytes per encoded vector / sub-quantizers (10) is not supported")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", refuse)
    with pytest.raises(MissingPartError, match=r"use --device cpu .*\(10\) is not supported"):
        VectorIndex.build(np.ones((10, 4), np.float32), IndexConfig(device="cuda"))

"""Every kind of index, on every device, passes one suite."""

from __future__ import annotations

import faiss
import pytest

from recsys.index import approximate, graph, inverted_file
from recsys.index.config import IndexConfig
from recsys.testing.index_contract import VectorIndexContract


class TestFlat(VectorIndexContract):
    config = IndexConfig(kind="flat", device="cpu")


class TestInvertedFileReadingAllLists(VectorIndexContract):
    config = IndexConfig(kind="ivf", lists=5, probes=5, tuning_queries=5, device="cpu")
    ties_by_row = False


class TestProductQuantisedReadingAllLists(VectorIndexContract):
    config = IndexConfig(kind="ivfpq", lists=5, probes=5, pq_bytes=1, candidates=1000, tuning_queries=5, device="cpu")
    ties_by_row = False


class TestGraph(VectorIndexContract):
    """So few rows are searched exactly."""

    config = IndexConfig(kind="hnsw", tuning_queries=5, device="cpu")
    ties_by_row = False


class _Always(VectorIndexContract):
    """As if exact search were never faster and no exclusion could be fetched and dropped."""

    ties_by_row = False
    patch = pytest.MonkeyPatch()

    @classmethod
    def setup_class(cls) -> None:
        cls.patch.setattr(inverted_file, "FEW_ALLOWED", -1)
        cls.patch.setattr(graph, "FEW_ALLOWED", -1)
        cls.patch.setattr(graph, "_ROWS_A_STEP", 0)
        cls.patch.setattr(approximate, "_OVERFETCH", -1)

    @classmethod
    def teardown_class(cls) -> None:
        cls.patch.undo()


class TestInvertedFileWithBitmaps(_Always):
    config = IndexConfig(kind="ivf", lists=5, probes=5, tuning_queries=5, device="cpu")


class TestGraphWithBitmaps(_Always):
    config = IndexConfig(kind="hnsw", links=8, ef_search=100, tuning_queries=5, device="cpu")
    reads_everything = False


class TestGraphWithoutBitmaps(_Always):
    config = IndexConfig(kind="hnsw", links=8, ef_search=100, tuning_queries=5, device="cpu")
    reads_everything = False

    @classmethod
    def setup_class(cls) -> None:
        super().setup_class()
        cls.patch.setattr(approximate, "_OVERFETCH", 1000)


needs_gpu = pytest.mark.skipif(
    not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0,
    reason="needs faiss-gpu and a CUDA device; run with pytest -m gpu on such a machine",
)


@pytest.mark.gpu
@needs_gpu
class TestFlatOnGpu(VectorIndexContract):
    config = IndexConfig(kind="flat", device="cuda")
    ties_by_row = False


@pytest.mark.gpu
@needs_gpu
class TestInvertedFileOnGpu(VectorIndexContract):
    config = IndexConfig(kind="ivf", lists=5, probes=5, tuning_queries=5, device="cuda")
    ties_by_row = False


@pytest.mark.gpu
@needs_gpu
class TestProductQuantisedOnGpu(VectorIndexContract):
    config = IndexConfig(kind="ivfpq", lists=5, probes=5, pq_bytes=1, candidates=1000, tuning_queries=5, device="cuda")
    ties_by_row = False

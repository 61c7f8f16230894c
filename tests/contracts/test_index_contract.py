"""Every kind of index, on every device, passes one suite."""

from __future__ import annotations

import faiss
import pytest

from recsys.index import inverted_file
from recsys.index.config import IndexConfig
from recsys.testing.index_contract import VectorIndexContract


class TestFlat(VectorIndexContract):
    config = IndexConfig(kind="flat", device="cpu")


class TestInvertedFileReadingAllLists(VectorIndexContract):
    config = IndexConfig(kind="ivf", lists=5, probes=5, device="cpu")
    ties_by_row = False


class TestInvertedFileWithBitmaps(VectorIndexContract):
    """As if every filter and every exclusion were too large to be fetched and dropped."""

    config = IndexConfig(kind="ivf", lists=5, probes=5, device="cpu")
    ties_by_row = False
    patch = pytest.MonkeyPatch()

    @classmethod
    def setup_class(cls) -> None:
        cls.patch.setattr(inverted_file, "_FEW_ALLOWED", -1)
        cls.patch.setattr(inverted_file, "_OVERFETCH", -1)

    @classmethod
    def teardown_class(cls) -> None:
        cls.patch.undo()


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
    config = IndexConfig(kind="ivf", lists=5, probes=5, device="cuda")
    ties_by_row = False

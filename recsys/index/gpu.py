"""Search on a GPU through faiss-gpu: the device proposes, the processor keeps the promises."""

from __future__ import annotations

import threading

import faiss
import numpy as np

from recsys.errors import MissingPartError
from recsys.index.config import Device
from recsys.index.engine import ProcessorEngine, bounds_of, is_member, longest, union
from recsys.types import Bools, Floats, Offsets, RaggedRows, Rows

_MOST_ROWS = 2_048
"""A GPU index selects at most so many rows a query (getMaxKSelection of FAISS)."""


def use_gpu(device: Device) -> bool:
    """Whether to search on a GPU.

    Raises:
        MissingPartError: for `cuda` where there is no GPU or FAISS was built without support for it.
    """
    if device == "cpu":
        return False
    supported = hasattr(faiss, "StandardGpuResources")
    found = supported and faiss.get_num_gpus() > 0
    if device == "cuda" and not supported:
        raise MissingPartError(
            "device = cuda: the installed FAISS has no GPU support; "
            "pip uninstall faiss-cpu && pip install 'recsys[gpu]', or use --device cpu"
        )
    if device == "cuda" and not found:
        raise MissingPartError("device = cuda: FAISS sees no GPU; check nvidia-smi and the driver, or use --device cpu")
    return found


class GpuSearch:
    """Engine over a FAISS index copied to GPU 0.

    A GPU index knows no selectors and no more than 2,048 answers: exclusions are fetched and dropped, and
    filters, larger searches and searches that came back short go to the engine on the processor.

    Args:
        engine: the engine on the processor.

    Raises:
        MissingPartError: when FAISS cannot copy the index, or the copy does not hold what the original holds.
    """

    def __init__(self, engine: ProcessorEngine) -> None:
        index, probes = engine.device_index()
        self._resources = faiss.StandardGpuResources()
        try:
            self._index = faiss.index_cpu_to_gpu(self._resources, 0, index)
        except RuntimeError as error:
            raise MissingPartError(f"FAISS cannot copy the index to a GPU, use --device cpu ({error})") from None
        if self._index.ntotal != index.ntotal:
            raise MissingPartError(
                f"the GPU index holds {self._index.ntotal} of {index.ntotal} vectors; "
                "check the faiss-gpu installation with `recsys doctor`, or use --device cpu"
            )
        if probes:
            faiss.GpuParameterSpace().set_index_parameter(self._index, "nprobe", min(probes, _MOST_ROWS))
        self._processor = engine
        self._lock = threading.Lock()

    def propose(
        self,
        queries: Floats,
        k: int,
        allowed: Bools | None,
        excluded: RaggedRows | None,
        groups: Offsets | None = None,
    ) -> list[Rows]:
        """See `Engine.propose`."""
        hidden = longest(excluded)
        fetch = min(self._processor.fetched(k) + hidden, self._index.ntotal)
        if allowed is not None or k + hidden > _MOST_ROWS:
            return self._processor.propose(queries, k, allowed, excluded, groups)
        with self._lock:  # GPU resources serve one thread at a time
            _, found = self._index.search(self._processor.laid(queries), min(fetch, _MOST_ROWS))
        enough = min(k, self._index.ntotal)
        proposals = []
        for g, (start, stop) in enumerate(bounds_of(queries, groups)):
            alone = None if excluded is None else RaggedRows.of([excluded[g]])
            lists = [np.sort(rows[rows >= 0].astype(np.int32)) for rows in found[start:stop]]
            kept = lists if alone is None else [rows[~is_member(rows, alone.values)] for rows in lists]
            for place, rows in enumerate(kept):
                if len(rows) < enough:
                    query = queries[start + place : start + place + 1]
                    kept[place] = self._processor.propose(query, k, None, alone)[0]
            proposals.append(union(kept))
        return proposals

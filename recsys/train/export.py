"""What leaves training: vectors, the nodes of a tree, and the user tower as ONNX, checked against torch first."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.features.definition import HISTORY, HISTORY_AGE
from recsys.files import replacing
from recsys.index.node_attention import NodeAttention
from recsys.models.retriever import Retriever
from recsys.models.tdm import Tdm
from recsys.types import Floats

HISTORY_VECTORS: Final = "history_vectors"
USER_VECTOR: Final = "user_vector"
USER_VECTORS: Final = "user_vectors"
"""Outputs of towers that make one vector a user, and several."""
PARITY: Final = 1e-5
"""The largest difference from torch, relative to the largest entry where that is above 1."""

_USERS_AT_ONCE: Final = 64
_OPSET: Final = 18
_TRACED: Final = (2, 3)
_CHECKED: Final = ((1, 1), (1, 7), (3, 5), (5, 40))
"""Batch sizes and history lengths: those traced with, and those that parity is checked at."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        inputs: names in the graph's order.
        dim: width of the user vector.
        parity_error: largest difference between onnxruntime and torch that was seen.
    """

    inputs: tuple[str, ...]
    dim: int
    parity_error: float


class _UserTower(nn.Module):
    """The serving face of a retriever: named inputs to (B, [K,] d_out) user vectors."""

    def __init__(self, model: Retriever) -> None:
        super().__init__()
        self.model = model
        self.names = tower_inputs(model)
        self.output = USER_VECTOR if model.interests is None else USER_VECTORS

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        vectors, age = named.pop(HISTORY_VECTORS, None), named.pop(HISTORY_AGE, None)
        return self.model.user_vectors(self.model.newest_user_states(vectors, age, named))


def tower_inputs(model: Retriever) -> tuple[str, ...]:
    """Names of the inputs of a model's user tower: attributes, then history vectors and ages."""
    history = (HISTORY_VECTORS, HISTORY_AGE) if model.reads_history else ()
    return (*(field.name for field in model.shape.user_fields), *history)


def export_user_tower(model: Retriever, path: Path, seed: int = 0) -> ExportReport:
    """Writes the user tower as ONNX; batch and history length are free.

    Raises:
        TrainingError: when onnxruntime differs from torch by more than 1e-5; nothing is written then.
    """
    tower = _UserTower(model).cpu().eval()
    rng = np.random.default_rng(seed)
    example = sample_inputs(model, *_TRACED, rng)
    with replacing(path) as temporary:
        _export(tower, example, temporary)
        dim = model.shape.dim + (model.shape.similarity == "dot")
        report = ExportReport(tower.names, dim, _parity_error(tower, temporary, rng))
        if report.parity_error > PARITY:
            raise TrainingError(
                f"the exported user tower differs from torch by {report.parity_error:.2e}, more than {PARITY:.0e}; "
                "it was not written"
            )
    return report


def sample_inputs(model: Retriever, batch: int, length: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Random inputs of a user tower, with histories of all lengths from 0 to `length`."""
    inputs: dict[str, NDArray[Any]] = {}
    for field in model.shape.user_fields:
        shape = (batch, field.length) if field.kind == "list" else (batch,)
        inputs[field.name] = rng.integers(0, field.cardinality, shape, dtype=np.int32)
    if model.reads_history:
        lengths = rng.integers(0, length + 1, batch)
        lengths[0] = length
        age = np.arange(length, 0, -1, dtype=np.int32) * (np.arange(length, 0, -1) <= lengths[:, None])
        codes = rng.integers(1, model.shape.item_codes, (batch, length)) * (age > 0)
        with torch.no_grad():
            states = model.items.history_states(torch.from_numpy(codes.ravel()).to(model.items.index.device))
            inputs[HISTORY_VECTORS] = states.cpu().numpy().reshape(batch, length, -1)
        inputs[HISTORY_AGE] = age.astype(np.int32)
    return inputs


def item_vectors(model: Retriever) -> Floats:
    """(N, d_out) vectors of the whole catalogue, as the index stores them."""
    return model.items.catalogue_vectors().cpu().numpy()


def write_history_vectors(model: Retriever, path: Path) -> None:
    """Writes (codes, d) what the user tower is given for each item code, as .npy; row 0 = zeros, row 1 = unseen."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (model.shape.item_codes, model.shape.dim)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in model.items.history_blocks():
            file.write(block.cpu().numpy().astype("<f4", copy=False).data)


@torch.no_grad()
def node_attention(model: Tdm) -> NodeAttention:
    """The nodes and the attention of a tree retriever as they are served."""
    attention = model.attention
    key, value, ages = (w.detach().cpu().numpy() for w in (attention.key, attention.value, attention.age_weight))
    return NodeAttention(model.tree.held, model.node_table().cpu().numpy(), key, value, ages, attention.cap)


@torch.no_grad()
def user_vectors(model: Retriever, codes: Mapping[str, NDArray[Any]]) -> Floats:
    """(B, [K,] d_out) vectors of encoded users (see `OnlineEncoder.encode_users`), by torch and in blocks."""
    device = model.items.index.device
    named = {name: torch.from_numpy(np.asarray(values)).to(device) for name, values in codes.items()}
    history, age = named.pop(HISTORY, None), named.pop(HISTORY_AGE, None)
    table = None
    if history is not None:
        met, history = torch.unique(history, return_inverse=True)
        table = model.items.history_states(met)
    parts = []
    for start in range(0, len(next(iter(codes.values()))), _USERS_AT_ONCE):
        part = slice(start, start + _USERS_AT_ONCE)
        vectors = None if history is None or table is None else table[history[part]]
        user = {name: values[part] for name, values in named.items()}
        states = model.newest_user_states(vectors, None if age is None else age[part], user)
        parts.append(model.user_vectors(states).cpu().numpy())
    return np.concatenate(parts)


def _export(tower: _UserTower, example: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Traces the tower into a file.

    The tracing exporter gives the same graph as the dynamo one, as fast to run, in a fiftieth of the time. What
    tracing could get wrong, a size taken for a constant, the parity check at other sizes finds.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
            tuple(torch.from_numpy(example[name]) for name in tower.names),
            str(path),
            input_names=list(tower.names),
            output_names=[tower.output],
            dynamic_axes={name: _free_axes(name) for name in (*tower.names, tower.output)},
            opset_version=_OPSET,
            dynamo=False,
        )


def _free_axes(name: str) -> dict[int, str]:
    return {0: "batch", 1: "length"} if name in (HISTORY_VECTORS, HISTORY_AGE) else {0: "batch"}


def _parity_error(tower: _UserTower, path: Path, rng: np.random.Generator) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, length in _CHECKED:
        inputs = sample_inputs(tower.model, batch, length, rng)
        if HISTORY_AGE in inputs and batch > 1:
            inputs[HISTORY_AGE][-1] = 0
            inputs[HISTORY_VECTORS][-1] = 0.0
        worst = max(worst, _difference(tower, session, inputs))
    return worst


def _difference(tower: _UserTower, session: Any, inputs: Mapping[str, NDArray[Any]]) -> float:
    with torch.no_grad():
        expected = tower(*(torch.from_numpy(inputs[name]) for name in tower.names)).numpy()
    served = session.run([tower.output], dict(inputs))[0]
    return float(np.abs(served - expected).max() / max(1.0, np.abs(expected).max()))

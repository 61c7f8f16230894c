"""User towers small enough to check by hand, as ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper


def write_mean_tower(path: Path, dim: int) -> None:
    """Writes a tower whose `user_vector` is the mean of the vectors of age > 0, zeros without any.

    Inputs as of any vector channel: `history_vectors` (B, L, dim) float32, `history_age` (B, L) int64.
    """
    constants: dict[str, NDArray[Any]] = {
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.float32),
        "over_history": np.array([1], np.int64),
        "over_columns": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Greater", ["history_age", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weight", "over_columns"], ["weights"]),
        helper.make_node("Mul", ["history_vectors", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "over_history"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weight", "over_history"], ["count"], keepdims=1),
        helper.make_node("Max", ["count", "one"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], ["user_vector"]),
    ]
    _write(path, "mean_of_history", dim, nodes, "user_vector", ["B", dim], constants)


def write_newest_tower(path: Path, dim: int, interests: int) -> None:
    """Writes a tower whose interest j, of those a user has, is the vector of the item of age j + 1.

    Interests beyond K' = max(1, min(K, ⌊log2(history length)⌋)) repeat the first; all are zeros without a history.
    Inputs as of `write_mean_tower`; output `user_vectors` (B, interests, dim).
    """
    constants: dict[str, NDArray[Any]] = {
        "places": np.arange(1, interests + 1, dtype=np.int64)[:, None],
        "over_interests": np.array([1], np.int64),
        "over_columns": np.array([2], np.int64),
        "zero": np.array(0, np.int64),
        "needed": _needed(interests),
        "first": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["history_age", "over_interests"], ["ages"]),
        helper.make_node("Equal", ["ages", "places"], ["chosen"]),
        helper.make_node("Cast", ["chosen"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["weights", "history_vectors"], ["newest"]),
        *_which_there_are(),
        helper.make_node("Gather", ["newest", "first"], ["first_of_all"], axis=1),
        helper.make_node("Where", ["has", "newest", "first_of_all"], ["user_vectors"]),
    ]
    _write(path, "newest_of_history", dim, nodes, "user_vectors", ["B", interests, dim], constants)


def _needed(interests: int) -> NDArray[np.float32]:
    """(K,) behaviours that it takes to have interest j: 2^(j + 1), and none for the first."""
    return np.array([0, *(2.0 ** (j + 1) for j in range(1, interests))], np.float32)


def _which_there_are() -> list[NodeProto]:
    """Nodes that make `weight` (B, L), 1 where there is a behaviour, and `has` (B, K, 1), which interests there are."""
    return [
        helper.make_node("Greater", ["history_age", "zero"], ["there"]),
        helper.make_node("Cast", ["there"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["weight", "over_interests"], ["count"], keepdims=1),
        helper.make_node("GreaterOrEqual", ["count", "needed"], ["had"]),
        helper.make_node("Unsqueeze", ["had", "over_columns"], ["has"]),
    ]


def _write(
    path: Path,
    name: str,
    dim: int,
    nodes: Sequence[NodeProto],
    output: str,
    shape: Sequence[str | int],
    constants: dict[str, NDArray[Any]],
) -> None:
    """Writes the checked graph of a tower over `history_vectors` and `history_age`."""
    inputs = [
        helper.make_tensor_value_info("history_vectors", TensorProto.FLOAT, ["B", "L", dim]),
        helper.make_tensor_value_info("history_age", TensorProto.INT64, ["B", "L"]),
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
    initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))

"""A user tower small enough to check by hand: the mean of the history's vectors, as an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_mean_tower(path: Path, dim: int) -> None:
    """Writes a tower whose `user_vector` is the mean of the vectors of age > 0, zeros without any.

    Inputs as of any vector channel: `history_vectors` (B, L, dim) float32, `history_age` (B, L) int64.
    """
    constants = [
        numpy_helper.from_array(np.array(0, np.int64), "zero"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
        numpy_helper.from_array(np.array([1], np.int64), "over_history"),
        numpy_helper.from_array(np.array([2], np.int64), "over_columns"),
    ]
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
    graph = helper.make_graph(
        nodes,
        "mean_of_history",
        [
            helper.make_tensor_value_info("history_vectors", TensorProto.FLOAT, ["B", "L", dim]),
            helper.make_tensor_value_info("history_age", TensorProto.INT64, ["B", "L"]),
        ],
        [helper.make_tensor_value_info("user_vector", TensorProto.FLOAT, ["B", dim])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))

"""User towers without training, as ONNX files: two that a person checks by hand, and one that costs what MIND costs."""

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


def write_capsule_tower(
    path: Path, dim: int, interests: int = 4, iterations: int = 3, history_length: int = 200, seed: int = 0
) -> None:
    """Writes the user tower of MIND with weights made up, for what it costs and not for what it finds.

    Behaviours are items plus a vector of their age; dynamic routing by 20·cos(u_j, ê_i) with a shared map, as
    `recsys.models` trains it (MIND, Li et al., CIKM 2019, §3.2 and 3.3); then one hidden layer of twice the width
    around which each interest is carried along, so that it stays near the items it came from.
    Inputs as of `write_mean_tower`; output `user_vectors` (B, interests, dim) of length 1.
    """
    rng = np.random.default_rng(seed)

    def small(*shape: int) -> NDArray[np.float32]:
        return np.array(rng.standard_normal(shape) * 0.1 / np.sqrt(dim), np.float32)

    constants: dict[str, NDArray[Any]] = {
        "zero": np.array(0, np.int64),
        "over_interests": np.array([1], np.int64),
        "over_columns": np.array([2], np.int64),
        "first": np.array([0], np.int64),
        "needed": _needed(interests),
        "tiny": np.array(1e-12, np.float32),
        "one": np.array(1, np.float32),
        "sharpness": np.array(20, np.float32),
        "never": np.array(-1e9, np.float32),
        "open": np.array(0, np.float32),
        "age_vectors": np.concatenate((np.zeros((1, dim), np.float32), small(history_length, dim))),
        "shared": np.eye(dim, dtype=np.float32) + small(dim, dim),
        "directions": rng.standard_normal((interests, dim)).astype(np.float32),
        "hidden_weights": small(dim, 2 * dim),
        "hidden_bias": small(2 * dim),
        "output_weights": small(2 * dim, dim),
    }
    nodes = [
        helper.make_node("Gather", ["age_vectors", "history_age"], ["age_vector"]),
        helper.make_node("Add", ["history_vectors", "age_vector"], ["behaviours"]),
        helper.make_node("MatMul", ["behaviours", "shared"], ["mapped"]),
        helper.make_node("Transpose", ["mapped"], ["columns"], perm=[0, 2, 1]),
        *_inverse_norm("columns", "inverse", "over_interests"),
        helper.make_node("MatMul", ["directions", "columns"], ["products_0"]),
        helper.make_node("Mul", ["products_0", "inverse"], ["logits_0"]),
        helper.make_node("Unsqueeze", ["weight", "over_interests"], ["seen"]),
        helper.make_node("Where", ["has", "open", "never"], ["closed"]),
    ]
    for i in range(iterations - 1):
        nodes += [
            *_routed(f"logits_{i}", f"summed_{i}", i),
            *_inverse_norm(f"summed_{i}", f"inverse_{i}", "over_columns"),
            helper.make_node("Mul", [f"summed_{i}", f"inverse_{i}"], [f"unit_{i}"]),
            helper.make_node("Mul", [f"unit_{i}", "sharpness"], [f"sharp_{i}"]),
            helper.make_node("MatMul", [f"sharp_{i}", "columns"], [f"products_{i + 1}"]),
            helper.make_node("Mul", [f"products_{i + 1}", "inverse"], [f"logits_{i + 1}"]),
        ]
    last = iterations - 1
    nodes += [
        *_routed(f"logits_{last}", "summed", last),
        helper.make_node("ReduceSumSquare", ["summed", "over_columns"], ["square"], keepdims=1),
        helper.make_node("Add", ["square", "one"], ["beyond"]),
        helper.make_node("Div", ["square", "beyond"], ["length"]),
        *_inverse_norm("summed", "inverse_last", "over_columns"),
        helper.make_node("Mul", ["length", "inverse_last"], ["squash"]),
        helper.make_node("Mul", ["summed", "squash"], ["interests"]),
        helper.make_node("MatMul", ["interests", "hidden_weights"], ["hidden_products"]),
        helper.make_node("Add", ["hidden_products", "hidden_bias"], ["hidden_sums"]),
        helper.make_node("Relu", ["hidden_sums"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "output_weights"], ["added"]),
        helper.make_node("Add", ["interests", "added"], ["made"]),
        *_inverse_norm("made", "inverse_made", "over_columns"),
        helper.make_node("Mul", ["made", "inverse_made"], ["found"]),
        helper.make_node("Gather", ["found", "first"], ["first_of_all"], axis=1),
        helper.make_node("Where", ["has", "found", "first_of_all"], ["user_vectors"]),
    ]
    nodes = [*_which_there_are(), *nodes]
    _write(path, "capsules", dim, nodes, "user_vectors", ["B", interests, dim], constants)


def _routed(logits: str, output: str, turn: int) -> list[NodeProto]:
    """Nodes that sum the behaviours by their routing weights: a softmax over the interests that there are."""
    return [
        helper.make_node("Add", [logits, "closed"], [f"open_{turn}"]),
        helper.make_node("Softmax", [f"open_{turn}"], [f"shares_{turn}"], axis=1),
        helper.make_node("Mul", [f"shares_{turn}", "seen"], [f"weights_{turn}"]),
        helper.make_node("MatMul", [f"weights_{turn}", "mapped"], [output]),
    ]


def _inverse_norm(vectors: str, output: str, axis: str) -> list[NodeProto]:
    """Nodes that make 1 / length of vectors along an axis."""
    return [
        helper.make_node("ReduceSumSquare", [vectors, axis], [f"{output}_square"], keepdims=1),
        helper.make_node("Add", [f"{output}_square", "tiny"], [f"{output}_positive"]),
        helper.make_node("Sqrt", [f"{output}_positive"], [f"{output}_length"]),
        helper.make_node("Reciprocal", [f"{output}_length"], [output]),
    ]


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

"""The exported tower of interests is the torch one, at every batch size, history length and number of interests."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from recsys.features.feature_set import Field
from recsys.models.mind import Mind, MindShape
from recsys.train.export import export_user_tower, sample_inputs, user_vectors

SEGMENT = Field("segment", "user", "categorical", 5)
TAGS = Field("tags", "user", "list", 7, 3)
SETTINGS = [
    {"interests": 4},
    {"interests": 1, "user_fields": ()},
    {"interests": 3, "routing": "accumulate", "similarity": "cosine"},
]

Exported = tuple[Mind, onnxruntime.InferenceSession]


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    shape = {"item_codes": 30, "user_fields": (SEGMENT, TAGS), "dim": 16, "history_length": 20, **request.param}
    model = Mind(MindShape(**shape), torch.arange(2, 30, dtype=torch.int32), {})
    for name, parameter in model.named_parameters():
        if name not in ("decay", "profiles.weight"):
            nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("tower") / "user_tower.onnx"
    assert export_user_tower(model.eval(), path).parity_error <= 1e-5
    return model, onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 20), (2, 3), (7, 11), (33, 20), (1, 31)])
def test_onnx_is_torch(exported: Exported, batch: int, length: int) -> None:
    model, session = exported
    inputs = sample_inputs(model, batch, length, np.random.default_rng(batch * length))
    with torch.no_grad():
        named = {name: torch.from_numpy(values) for name, values in inputs.items()}
        vectors, age = named.pop("history_vectors"), named.pop("history_age")
        expected = model.user_vectors(model.newest_user_states(vectors, age, named)).numpy()
    served = session.run(["user_vectors"], inputs)[0]
    assert served.shape == (batch, model.interests, 17 if model.shape.similarity == "dot" else 16)
    assert np.abs(served - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_interests_that_a_user_lacks_are_the_first_bit_for_bit(exported: Exported) -> None:
    model, session = exported
    inputs = sample_inputs(model, 40, 20, np.random.default_rng(1))
    served = session.run(["user_vectors"], inputs)[0]
    lengths = (inputs["history_age"] > 0).sum(axis=1)
    for vectors, length in zip(served, lengths, strict=True):
        there = max(1, min(model.interests, int(np.log2(max(1, length)))))
        assert (vectors[there:] == vectors[0]).all()


def test_an_empty_history_is_served_as_torch_has_it(exported: Exported) -> None:
    model, session = exported
    age = np.zeros((1, 1), np.int32)
    nobody = {"segment": np.zeros(1, np.int32), "tags": np.zeros((1, 3), np.int32)} if model.shape.user_fields else {}
    served = session.run(
        ["user_vectors"], {**nobody, "history_vectors": np.zeros((1, 1, 16), np.float32), "history_age": age}
    )[0]
    expected = user_vectors(model, {**nobody, "history": np.zeros((1, 1), np.int32), "history_age": age})
    assert np.isfinite(served).all()
    assert np.allclose(served, expected, atol=1e-5)

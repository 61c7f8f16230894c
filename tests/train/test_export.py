"""The exported user tower is the torch tower, at every batch size and history length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from recsys.errors import TrainingError
from recsys.features.feature_set import Field
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.train import export
from recsys.train.export import export_user_tower, sample_inputs, user_vectors

SEGMENT = Field("segment", "user", "categorical", 5)
TAGS = Field("tags", "user", "list", 7, 3)


def two_tower(history: str, similarity: str = "dot", positions: str = "absolute", convolution: int = 0) -> TwoTower:
    torch.manual_seed(0)
    shape = TwoTowerShape(
        item_codes=30,
        user_fields=(SEGMENT, TAGS),
        dim=16,
        history=history,  # type: ignore[arg-type]
        history_length=20,
        similarity=similarity,  # type: ignore[arg-type]
        positions=positions,  # type: ignore[arg-type]
        convolution=convolution,
    )
    model = TwoTower(shape, torch.arange(2, 30, dtype=torch.int32), {})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


TOWERS = [
    ("attention", "dot"),
    ("attention", "dot", "rotary", 0),
    ("attention", "cosine", "none", 3),
    ("recency", "dot"),
    ("attention+recency", "dot"),
    ("mean", "cosine"),
]


@pytest.fixture(scope="module", params=TOWERS, ids=str)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TwoTower, onnxruntime.InferenceSession]:
    model = two_tower(*request.param)
    path = tmp_path_factory.mktemp("tower") / "user_tower.onnx"
    report = export_user_tower(model, path)
    assert report.inputs == ("segment", "tags", "history_vectors", "history_age")
    assert report.parity_error <= 1e-5
    return model, onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 20), (2, 3), (7, 11), (33, 20), (1, 31)])
def test_onnx_is_torch(exported: tuple[TwoTower, onnxruntime.InferenceSession], batch: int, length: int) -> None:
    model, session = exported
    inputs = sample_inputs(model, batch, length, np.random.default_rng(batch * length))
    with torch.no_grad():
        named = {name: torch.from_numpy(values) for name, values in inputs.items()}
        vectors, age = named.pop("history_vectors"), named.pop("history_age")
        expected = model.user_vectors(model.newest_user_states(vectors, age, named)).numpy()
    served = session.run(["user_vector"], inputs)[0]
    assert np.abs(served - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_an_empty_history_is_served_as_torch_has_it(exported: tuple[TwoTower, onnxruntime.InferenceSession]) -> None:
    model, session = exported
    nobody = {"segment": np.zeros(1, np.int32), "tags": np.zeros((1, 3), np.int32)}
    age = np.zeros((1, 1), np.int32)
    served = session.run(
        ["user_vector"], {**nobody, "history_vectors": np.zeros((1, 1, 16), np.float32), "history_age": age}
    )[0]
    expected = user_vectors(model, {**nobody, "history": np.zeros((1, 1), np.int32), "history_age": age})
    assert np.isfinite(served).all()
    assert np.allclose(served, expected, atol=1e-5)


def test_a_tower_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PARITY", -1.0)
    path = tmp_path / "user_tower.onnx"
    with pytest.raises(TrainingError, match="differs from torch"):
        export_user_tower(two_tower("mean"), path)
    assert list(tmp_path.iterdir()) == []

"""The capsule tower without training: it routes as MIND does, so that what it costs is what MIND costs."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from recsys.testing.towers import write_capsule_tower
from recsys.types import Floats

DIM, INTERESTS = 32, 4


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    path = tmp_path_factory.mktemp("tower") / "user_tower.onnx"
    write_capsule_tower(path, DIM, INTERESTS, history_length=50)
    return onnxruntime.InferenceSession(str(path))


def interests(tower: onnxruntime.InferenceSession, vectors: Floats, padding: int = 0) -> Floats:
    """(K, d) of one history, newest last."""
    ages = np.arange(len(vectors), 0, -1, dtype=np.int64)
    feed = {
        "history_vectors": np.pad(vectors, ((padding, 0), (0, 0)))[None],
        "history_age": np.pad(ages, (padding, 0))[None],
    }
    found: Floats = tower.run(["user_vectors"], feed)[0][0]
    return found


def two_tastes(count: int) -> tuple[Floats, Floats]:
    """(2, d) directions at right angles, and `count` vectors that lie near one or the other in turns."""
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.standard_normal((DIM, 2)))[0].T.astype(np.float32)
    noise = 0.05 * rng.standard_normal((count, DIM), np.float32)
    return centres, centres[np.arange(count) % 2] + noise


def test_two_tastes_become_two_interests(tower: onnxruntime.InferenceSession) -> None:
    centres, history = two_tastes(6)  # log2 is 2
    found = interests(tower, history)[:2] @ centres.T
    assert sorted(found.argmax(axis=1).tolist()) == [0, 1]
    assert (found.max(axis=1) > 0.9).all()


@pytest.mark.parametrize(("length", "had"), [(1, 1), (3, 1), (4, 2), (8, 3), (16, 4), (40, 4)])
def test_interests_beyond_those_that_a_history_allows_repeat_the_first(
    tower: onnxruntime.InferenceSession, length: int, had: int
) -> None:
    found = interests(tower, np.random.default_rng(1).standard_normal((length, DIM), np.float32))
    distinct = {tuple(row) for row in found.tolist()}
    assert len(distinct) == had
    assert (found[had:] == found[0]).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_padding_changes_nothing(tower: onnxruntime.InferenceSession) -> None:
    _, history = two_tastes(9)
    np.testing.assert_allclose(interests(tower, history, padding=30), interests(tower, history), atol=1e-5)

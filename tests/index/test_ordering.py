"""The order of scores: as a stable sort of their negatives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys.index.ordering import best_first
from recsys.types import Floats

FEW = st.sampled_from([0.0, -0.0, 1.5, -1.5, 1e-45, -1e-45, 3e38, float("inf"), float("-inf"), float("nan")])


@given(hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32) | FEW))
def test_it_is_the_stable_order_of_the_negatives_with_nan_last(scores: Floats) -> None:
    np.testing.assert_array_equal(best_first(scores), np.argsort(-scores, kind="stable"))


def test_a_nan_of_either_sign_is_last() -> None:
    scores = np.array([np.nan, 1.0, -np.nan, -np.inf], np.float32)
    assert best_first(scores).tolist() == [1, 3, 0, 2]

"""The vector scorer gives any candidate the score its channel would have given it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError
from recsys.features.online import OnlineEncoder
from recsys.ranking.scorer import Scorer, Stage
from recsys.ranking.vector_scorer import VectorScorer
from recsys.testing.channel_contract import users_with_histories
from recsys.testing.scorer_contract import ScorerContract, candidates_of
from recsys.types import Floats, Rows, Users

SIZE = 40
VECTORS = np.random.default_rng(0).standard_normal((SIZE, 5), dtype=np.float32)


class MeanOfHistory:
    """A source of vectors whose users are the mean of their history."""

    name = "two_tower"

    def user_vectors(self, users: Users) -> Floats:
        means = [VECTORS[users.history[b]].sum(0) / max(1, len(users.history[b])) for b in range(len(users))]
        return np.array(means, np.float32).reshape(len(users), 5)

    def row_scores(self, rows: Rows, vector: Floats) -> Floats:
        return VECTORS[rows] @ vector


class TestVectorScorer(ScorerContract):
    @pytest.fixture
    def scorer(self) -> Scorer:
        return VectorScorer(MeanOfHistory())

    @pytest.fixture
    def size(self) -> int:
        return SIZE


def test_a_score_is_the_dot_product_of_user_and_item() -> None:
    users = users_with_histories([[1, 2], [3]])
    scores = VectorScorer(MeanOfHistory()).score(users, candidates_of([[5, 6, 7], [8]]))
    expected = [*(VECTORS[[5, 6, 7]] @ VECTORS[[1, 2]].mean(0)), VECTORS[8] @ VECTORS[3]]
    np.testing.assert_allclose(scores.score, expected, rtol=1e-5)
    assert scores.p_click is None
    assert scores.p_conversion is None


def test_it_opens_on_the_channel_its_options_name() -> None:
    nothing = cast(Any, None)
    catalogue, encoder = cast(Catalogue, nothing), cast(OnlineEncoder, nothing)
    channels = {"popularity": object(), "two_tower": MeanOfHistory()}
    scorer = VectorScorer.open("by_vector", Path("c"), {"channel": "two_tower"}, catalogue, encoder, channels)
    assert (scorer.name, scorer.stage) == ("by_vector", Stage.PRE_RANK)
    for options in ({"channel": "popularity"}, {"channel": "mind"}, {}):
        with pytest.raises(BundleError, match="there are: two_tower"):
            VectorScorer.open("by_vector", Path("c"), options, catalogue, encoder, channels)

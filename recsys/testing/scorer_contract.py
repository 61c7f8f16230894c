"""What every scorer owes the cascade: a new ranker passes by subclassing one class."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.ranking.scorer import Scorer, Stage
from recsys.testing.channel_contract import users_with_histories
from recsys.types import Candidates, Users, offsets_of


def candidates_of(lists: list[list[int]]) -> Candidates:
    """Candidates with the given rows, without scores."""
    rows = np.array([row for part in lists for row in part], np.int32)
    zeros = np.zeros(len(rows), np.float32)
    return Candidates(rows, zeros, np.ones(len(rows), np.uint32), offsets_of([len(part) for part in lists]))


class ScorerContract:
    """Subclass with fixtures `scorer` and `size`, the number of rows of its catalogue (at least 30)."""

    @pytest.fixture
    def users(self) -> Users:
        """Four users, one of them without history."""
        return users_with_histories([[1, 2, 3], [], [7], [4, 9, 11, 12]])

    @pytest.fixture
    def lists(self, size: int) -> list[list[int]]:
        """Candidates of several numbers, none at all among them."""
        rng = np.random.default_rng(2)
        return [rng.permutation(size)[:n].tolist() for n in (20, 5, 0, 1)]

    def test_it_is_a_scorer_with_a_name_and_a_stage(self, scorer: Scorer) -> None:
        assert isinstance(scorer, Scorer)
        assert scorer.name
        assert scorer.stage in Stage

    def test_there_is_one_finite_score_a_candidate(self, scorer: Scorer, users: Users, lists: list[list[int]]) -> None:
        scores = scorer.score(users, candidates_of(lists))
        for column in (scores.score, scores.p_click, scores.p_conversion):
            if column is not None:
                assert column.shape == (26,)
                assert column.dtype == np.float32
                assert np.isfinite(column).all()

    def test_probabilities_are_probabilities(self, scorer: Scorer, users: Users, lists: list[list[int]]) -> None:
        scores = scorer.score(users, candidates_of(lists))
        for column in (scores.p_click, scores.p_conversion):
            assert column is None or ((column >= 0) & (column <= 1)).all()

    def test_scores_follow_their_candidates(self, scorer: Scorer, users: Users, lists: list[list[int]]) -> None:
        forwards = scorer.score(users, candidates_of(lists)).score
        backwards = scorer.score(users, candidates_of([part[::-1] for part in lists])).score
        np.testing.assert_allclose(backwards[:20], forwards[:20][::-1], rtol=1e-5, atol=1e-6)

    def test_a_batch_is_its_users_one_by_one(self, scorer: Scorer, users: Users, lists: list[list[int]]) -> None:
        together = scorer.score(users, candidates_of(lists)).score
        alone = [scorer.score(users.slice(b, b + 1), candidates_of([part])).score for b, part in enumerate(lists)]
        np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-5, atol=1e-6)

    def test_no_users_get_no_scores(self, scorer: Scorer, users: Users) -> None:
        assert scorer.score(users.slice(0, 0), candidates_of([])).score.shape == (0,)

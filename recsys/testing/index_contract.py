"""The promises of VectorIndex, against brute force: every kind and device passes by subclassing one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.errors import DataError, FeatureMismatchError, RequestError
from recsys.index.config import IndexConfig, Metric
from recsys.index.vector_index import VectorIndex
from recsys.types import Floats, RaggedRows, RowMask


class Search(NamedTuple):
    """One search, and what it searches."""

    vectors: Floats
    queries: Floats
    k: int
    allowed: RowMask | None
    excluded: RaggedRows


@st.composite
def searches(draw: Any) -> Search:
    """Small whole numbers as vectors, so that dot products are exact and ties are plenty."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, dim, batch = draw(st.integers(1, 120)), draw(st.integers(1, 9)), draw(st.sampled_from([1, 1, 2, 7]))
    spread = draw(st.sampled_from([1, 3, 50]))
    vectors = rng.integers(-spread, spread + 1, (count, dim)).astype(np.float32)
    queries = rng.integers(-spread, spread + 1, (batch, dim)).astype(np.float32)
    share = draw(st.sampled_from([None, 0.0, 0.05, 0.5, 1.0]))
    allowed = None if share is None else RowMask(rng.random(count) < share)
    hidden = draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    excluded = RaggedRows.of([rng.permutation(np.flatnonzero(rng.random(count) < hidden)) for _ in range(batch)])
    return Search(vectors, queries, draw(st.integers(1, count + 5)), allowed, excluded)


def brute_force(search: Search, b: int, metric: Metric) -> tuple[list[int], NDArray[np.float64]]:
    """Eligible rows of query b by (score descending, row ascending), and the scores of all rows."""
    vectors, query = search.vectors.astype(np.float64), search.queries[b].astype(np.float64)
    scores = -np.square(vectors - query).sum(axis=1) if metric == "l2" else vectors @ query
    if metric == "cosine":
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        scores = np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 0)
    eligible = np.ones(len(vectors), bool) if search.allowed is None else search.allowed.allowed.copy()
    eligible[search.excluded[b]] = False
    order = np.lexsort((np.arange(len(scores)), -scores))
    return [int(row) for row in order if eligible[row]], scores


many_examples = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class VectorIndexContract:
    """Subclass and set `config`: a configuration that reads everything, so that the index must be exact."""

    config: ClassVar[IndexConfig]
    ties_by_row: ClassVar[bool] = True
    """Whether the lowest rows are found among more equal scores than were asked for; approximate search finds any."""
    reads_everything: ClassVar[bool] = True
    """Whether nothing better may be missed; else only what the engine can promise is asked: eligible rows, all k."""

    @classmethod
    def build(cls, vectors: Floats, **changes: Any) -> VectorIndex:
        """An index of the kind under test."""
        return VectorIndex.build(vectors, cls.config.model_copy(update=changes))[0]

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    @many_examples
    @given(search=searches())
    def test_it_equals_brute_force_ties_included(self, metric: Metric, search: Search) -> None:
        index = self.build(search.vectors, metric=metric)
        rows, scores = index.search(search.queries, search.k, search.allowed, search.excluded)
        for b in range(len(search.queries)):
            eligible, exact = brute_force(search, b, metric)
            expected = eligible[: search.k]
            padding = search.k - len(expected)
            found = rows[b, : len(expected)].tolist()
            assert scores[b].tolist() == [*exact[found], *[-np.inf] * padding]
            assert (np.diff(scores[b, : len(expected)]) <= 0).all()
            assert len(set(found)) == len(found)
            assert set(found) <= set(eligible)
            assert (rows[b, len(expected) :] == -1).all()
            if self.reads_everything:
                assert exact[found].tolist() == exact[expected].tolist()
            if self.ties_by_row:
                assert found == expected

    @many_examples
    @given(searches())
    def test_by_cosine_it_equals_brute_force(self, search: Search) -> None:
        index = self.build(search.vectors, metric="cosine")
        rows, scores = index.search(search.queries, search.k, search.allowed, search.excluded)
        for b in range(len(search.queries)):
            expected, exact = brute_force(search, b, "cosine")
            found = rows[b][rows[b] >= 0]
            assert len(set(found.tolist())) == len(found) == min(search.k, len(expected))
            assert set(found.tolist()) <= set(expected)
            if self.reads_everything:
                np.testing.assert_allclose(exact[found], exact[expected[: search.k]], atol=1e-5)
            np.testing.assert_allclose(scores[b, : len(found)], exact[found], atol=1e-5)

    @pytest.fixture(scope="class")
    @classmethod
    def vectors(cls) -> Floats:
        """4,000 vectors around 40 centres."""
        rng = np.random.default_rng(7)
        centres = rng.standard_normal((40, 16))
        return (centres[rng.integers(0, 40, 4000)] + 0.3 * rng.standard_normal((4000, 16))).astype(np.float32)

    @pytest.fixture(scope="class")
    @classmethod
    def index(cls, vectors: Floats) -> VectorIndex:
        """An index over them."""
        return cls.build(vectors)

    def test_one_query_and_a_batch_give_the_same_bits(self, index: VectorIndex, vectors: Floats) -> None:
        excluded = RaggedRows.of([np.arange(b, dtype=np.int32) for b in range(50)])
        rows, scores = index.search(vectors[:50], 20, None, excluded)
        for b in range(50):
            alone = index.search(vectors[b : b + 1], 20, None, RaggedRows.of([excluded[b]]))
            assert alone[0].tolist() == [rows[b].tolist()]
            assert alone[1].tolist() == [scores[b].tolist()]

    def test_scores_are_the_dot_products_of_the_exact_vectors(self, index: VectorIndex, vectors: Floats) -> None:
        rows, scores = index.search(vectors[:10], 100)
        for b in range(10):
            exact = vectors[rows[b]].astype(np.float64) @ vectors[b].astype(np.float64)
            np.testing.assert_allclose(scores[b], exact, rtol=1e-5, atol=1e-5)
        assert (np.diff(scores, axis=1) <= 0).all()

    def test_scores_by_l2_are_negated_squared_distances(self, vectors: Floats) -> None:
        rows, scores = self.build(vectors, metric="l2").search(vectors[:10], 100)
        for b in range(10):
            exact = -np.square(vectors[rows[b]].astype(np.float64) - vectors[b]).sum(axis=1)
            np.testing.assert_allclose(scores[b], exact, rtol=1e-5, atol=1e-5)
        assert (scores[:, 0] == 0).all()

    @pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
    def test_k_rows_come_back_whenever_they_are_eligible(self, vectors: Floats, metric: Metric) -> None:
        index = self.build(vectors, metric=metric)
        rng = np.random.default_rng(5)
        for allowed_rows, hidden, k in ((5, 0, 5), (5, 2, 100), (300, 50, 100), (4000, 3000, 1000), (4000, 3950, 100)):
            mask = np.zeros(4000, bool)
            mask[rng.permutation(4000)[:allowed_rows]] = True
            excluded = [rng.permutation(np.flatnonzero(mask))[:hidden] for _ in range(3)]
            rows, _ = index.search(vectors[:3], k, RowMask(mask), RaggedRows.of(excluded))
            for b in range(3):
                found = rows[b][rows[b] >= 0]
                assert len(set(found.tolist())) == len(found) == min(k, allowed_rows - hidden)
                assert mask[found].all()
                assert not np.isin(found, excluded[b]).any()

    def test_a_catalogue_of_one_row_answers_with_it(self) -> None:
        rows, scores = self.build(np.array([[3, 4]], np.float32)).search(np.ones((2, 2), np.float32), 2)
        assert rows.tolist() == [[0, -1]] * 2
        assert scores.tolist() == [[7, -np.inf]] * 2

    def test_vectors_of_zeros_are_rows_like_others(self) -> None:
        for metric in ("dot", "cosine", "l2"):
            index = self.build(np.zeros((600, 8), np.float32), metric=metric)
            rows, scores = index.search(np.zeros((1, 8), np.float32), 20)
            assert len(set(rows[0].tolist()) - {-1}) == 20
            assert scores.tolist() == [[0.0] * 20]

    def test_identical_vectors_come_in_row_order_whatever_the_batch(self) -> None:
        vectors = np.repeat(np.random.default_rng(3).standard_normal((3, 24)).astype(np.float32), 700, axis=0)
        index = self.build(vectors)
        best = int((vectors[[0, 700, 1400]] @ vectors[0]).argmax()) * 700
        for batch in (1, 5):
            rows, _ = index.search(np.repeat(vectors[:1], batch, axis=0), 30)
            assert (np.diff(rows, axis=1) > 0).all()
            assert self.reads_everything is False or rows.tolist() == [list(range(best, best + 30))] * batch

    def test_a_query_of_zeros_gets_eligible_rows(self, index: VectorIndex) -> None:
        rows, scores = index.search(np.zeros((1, 16), np.float32), 5, None, RaggedRows.of([[0, 3]]))
        assert scores.tolist() == [[0.0] * 5]
        assert not {0, 3, -1} & set(rows[0].tolist())
        if self.ties_by_row:
            assert rows.tolist() == [[1, 2, 4, 5, 6]]

    def test_the_last_eligible_rows_are_found_wherever_they_lie(self, index: VectorIndex, vectors: Floats) -> None:
        left = np.argsort(vectors @ vectors[0])[:10].astype(np.int32)
        everything_else = np.setdiff1d(np.arange(4000, dtype=np.int32), left)
        rows, _ = index.search(vectors[:1], 10, None, RaggedRows.of([everything_else]))
        assert set(rows[0].tolist()) == set(left.tolist())
        mask = np.zeros(4000, bool)
        mask[left] = True
        rows, _ = index.search(vectors[:1], 10, RowMask(mask))
        assert set(rows[0].tolist()) == set(left.tolist())

    def test_k_beyond_the_catalogue_is_padded(self, index: VectorIndex, vectors: Floats) -> None:
        rows, scores = index.search(vectors[:2], 4010)
        assert (rows[:, :4000] >= 0).all()
        assert (rows[:, 4000:] == -1).all()
        assert np.isneginf(scores[:, 4000:]).all()

    def test_an_empty_index_answers_with_padding(self) -> None:
        index = self.build(np.empty((0, 4), np.float32))
        rows, scores = index.search(np.ones((2, 4), np.float32), 3, RowMask(np.empty(0, bool)), RaggedRows.empty(2))
        assert rows.tolist() == [[-1] * 3] * 2
        assert np.isneginf(scores).all()

    def test_an_empty_batch_gives_an_empty_answer(self, index: VectorIndex) -> None:
        rows, scores = index.search(np.empty((0, 16), np.float32), 3, None, RaggedRows.empty(0))
        assert rows.shape == scores.shape == (0, 3)

    def test_saved_and_opened_it_answers_the_same(self, index: VectorIndex, vectors: Floats, tmp_path: Path) -> None:
        index.save(tmp_path)
        opened = VectorIndex.open(tmp_path, self.config.device)
        assert opened.report == index.report
        excluded = RaggedRows.of([[1, 2, 3]] * 20)
        for before, after in zip(
            index.search(vectors[:20], 50, None, excluded), opened.search(vectors[:20], 50, None, excluded), strict=True
        ):
            assert before.tolist() == after.tolist()
        np.testing.assert_array_equal(opened.vectors(np.array([5, 1], np.int32)), vectors[[5, 1]])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
    def test_vectors_and_queries_that_are_not_finite_are_refused(self, index: VectorIndex, bad: float) -> None:
        vectors = np.ones((10, 16), np.float32)
        vectors[6, 2] = bad
        with pytest.raises(DataError, match="vector 6"):
            self.build(vectors)
        with pytest.raises(DataError, match="query 1"):
            index.search(vectors[5:7], 3)

    def test_misfits_are_refused(self, index: VectorIndex) -> None:
        query = np.ones((1, 16), np.float32)
        with pytest.raises(RequestError, match="k = 0"):
            index.search(query, 0)
        with pytest.raises(DataError, match="15 columns"):
            index.search(query[:, :15], 1)
        with pytest.raises(FeatureMismatchError, match="3 rows"):
            index.search(query, 1, RowMask(np.ones(3, bool)))
        with pytest.raises(DataError, match="2 lists"):
            index.search(query, 1, None, RaggedRows.empty(2))

"""Similarities by hand, routes to an index against brute force, sketches within their standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.index import similarity
from recsys.index.config import IndexConfig
from recsys.index.similarity import ROUTES, SIMILARITIES, SKETCH, Route, pairwise
from recsys.index.vector_index import VectorIndex
from recsys.types import Floats, RaggedRows

seeds = st.integers(0, 2**32 - 1)


def table(*rows: list[float]) -> Floats:
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("name", "a", "b", "expected"),
    [
        ("dot", [1, 2], [3, -1], 1),
        ("cosine", [3, 4], [4, 3], 24 / 25),
        ("cosine", [3, 4], [0, 0], 0),
        ("euclidean", [0, 0], [3, 4], -5),
        ("pearson", [1, 2, 3], [10, 20, 30], 1),
        ("pearson", [1, 2, 3], [3, 2, 1], -1),
        ("pearson", [1, 2, 3], [7, 7, 7], 0),
        ("pearson", [1, 2, 3], [1, 3, 2], 0.5),
        ("hamming", [0, 1, 1, 0], [1, 1, 0, 0], -2),
    ],
)
def test_vectors_by_hand(name: str, a: list[float], b: list[float], expected: float) -> None:
    assert pairwise(name, table(a), table(b)).tolist() == [[pytest.approx(expected, abs=1e-6)]]


def test_sets_by_hand() -> None:
    a, b = RaggedRows.of([[1, 2, 3], [], [5, 5]]), RaggedRows.of([[2, 3, 4, 9], [], [5]])
    assert pairwise("jaccard", a, b).tolist() == [[pytest.approx(2 / 5), 0, 0], [0, 1, 0], [0, 0, 1]]


def test_close_vectors_far_from_the_origin_keep_their_distances() -> None:
    vectors = table([10_000, 10_000], [10_000, 10_001], [10_000, 10_003])
    assert pairwise("euclidean", vectors[:1], vectors).tolist() == [[0, -1, -3]]


def test_misfits_are_refused() -> None:
    with pytest.raises(DataError, match="no similarity 'manhattan'; there are: dot, cosine"):
        pairwise("manhattan", table([1]), table([1]))
    with pytest.raises(DataError, match="2 columns cannot be compared with vectors of 1"):
        pairwise("dot", table([1, 2]), table([1]))
    with pytest.raises(DataError, match="vector 1 is not a finite vector"):
        pairwise("cosine", table([1], [np.nan]), table([1]))
    with pytest.raises(DataError, match=r"0 and 1, not 2\.0"):
        pairwise("hamming", table([1, 2]), table([1, 0]))


@pytest.mark.parametrize("name", sorted(SIMILARITIES))
@settings(deadline=None, max_examples=20)
@given(seed=seeds)
def test_nothing_is_more_similar_than_itself_and_order_does_not_matter(name: str, seed: int) -> None:
    data = _data(name, np.random.default_rng(seed), 12)
    values = pairwise(name, data, data)
    np.testing.assert_allclose(values, values.T, atol=1e-4)
    if name != "dot":
        assert (values.max(axis=1) <= np.diag(values) + 1e-4).all()


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_pearson_is_what_numpy_calls_corrcoef(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((4, 9), np.float32), rng.standard_normal((5, 9), np.float32)
    np.testing.assert_allclose(pairwise("pearson", a, b), np.corrcoef(a, b)[:4, 4:], atol=1e-5)


def _data(name: str, rng: np.random.Generator, count: int) -> Any:
    if name == "jaccard":
        return RaggedRows.of([rng.integers(0, 40, rng.integers(0, 30)) for _ in range(count)])
    if name == "hamming":
        return rng.integers(0, 2, (count, 24)).astype(np.float32)
    return rng.standard_normal((count, 8), np.float32) * rng.lognormal(0, 1, (count, 1)).astype(np.float32)


_ESTIMATES: dict[tuple[str, str], Callable[[Any, Any], Floats]] = {
    ("jaccard", "dot"): lambda a, b: similarity.minhash_signs(a, SKETCH) @ similarity.minhash_signs(b, SKETCH).T,
    ("cosine", "dot"): lambda a, b: similarity.estimated_cosine(
        similarity.simhash(a, SKETCH), similarity.simhash(b, SKETCH)
    ),
}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.similarity} by {route.metric}")
@pytest.mark.parametrize("seed", range(3))
def test_an_index_ranks_as_the_similarity_does(route: Route, seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, queries = _data(route.similarity, rng, 200), _data(route.similarity, rng, 20)
    index = VectorIndex.build(route.items(items), IndexConfig(metric=route.metric, device="cpu"))[0]
    rows, _ = index.search(route.queries(queries), 30)
    compare = _ESTIMATES[route.similarity, route.metric] if route.estimated else SIMILARITIES[route.similarity]
    values = compare(queries, items)
    best = -np.sort(-values, axis=1)[:, :30]
    np.testing.assert_allclose(np.take_along_axis(values, rows, 1), best, rtol=1e-4, atol=1e-3)


def test_the_routes_are_the_rows_of_the_documented_table() -> None:
    lines = [line.split("|") for line in (similarity.__doc__ or "").splitlines() if line.startswith("| ")][1:]
    documented = [(cells[1].strip(), cells[2].strip()) for cells in lines]
    estimated = {True: ", estimated", False: ""}
    assert documented == [(route.similarity + estimated[route.estimated], route.metric) for route in ROUTES]
    assert {route.similarity for route in ROUTES} == set(SIMILARITIES)


@pytest.mark.parametrize(("common", "own"), [(10, 90), (50, 50), (90, 10), (0, 100), (100, 0)])
def test_minhash_estimates_jaccard_within_its_standard_error(common: int, own: int) -> None:
    size, pairs = 512, 40
    a = [np.arange(1000 * i, 1000 * i + common + own) for i in range(pairs)]
    b = [np.concatenate((rows[:common], rows[:own] + 500)) for rows in a]
    true = common / (common + 2 * own)
    signatures = [similarity.minhash(RaggedRows.of(sets), size, seed=5) for sets in (a, b)]
    found = np.diag(similarity.estimated_jaccard(*signatures))
    error = math.sqrt(true * (1 - true) / size)
    assert np.abs(found - true).max() <= 4 * error
    assert abs(found.mean() - true) <= 4 * error / math.sqrt(pairs)
    assert found.std() <= 1.5 * error
    signs = [similarity.minhash_signs(RaggedRows.of(sets), size, seed=5) for sets in (a, b)]
    found = (signs[0] * signs[1]).mean(axis=1)
    assert np.abs(found - true).max() <= 4 * math.sqrt((1 - true**2) / size)


def test_empty_sets_have_signatures_too() -> None:
    signatures = similarity.minhash(RaggedRows.of([[], [1], [], [2]]), 64)
    assert similarity.estimated_jaccard(signatures, signatures).tolist() == [
        [1, 0, 1, 0],
        [0, 1, 0, 0],
        [1, 0, 1, 0],
        [0, 0, 0, 1],
    ]


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, 2.5, math.pi])
def test_simhash_estimates_the_angle_within_its_standard_error(angle: float) -> None:
    size, pairs = 512, 40
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((pairs, 16, 2)))[0]
    a = basis[:, :, 0]
    b = math.cos(angle) * a + math.sin(angle) * basis[:, :, 1]
    bits = [similarity.simhash((5 * x).astype(np.float32), size) for x in (a, b)]
    found = np.pi * np.abs(bits[0] - bits[1]).mean(axis=1)
    assert np.abs(found - angle).max() <= 4 * math.sqrt(angle * (math.pi - angle) / size) + 1e-3
    assert np.allclose(np.diag(similarity.estimated_cosine(*bits)), np.cos(found), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_one_more_coordinate_turns_largest_products_into_nearest_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, queries = _data("dot", rng, 50), _data("dot", rng, 5)
    longest = float(np.linalg.norm(items, axis=1).max())
    longer = similarity.mips_items(items, longest)
    np.testing.assert_allclose(np.linalg.norm(longer, axis=1), longest, rtol=1e-5)
    apart = pairwise("euclidean", similarity.mips_queries(queries), longer).astype(np.float64)
    expected = (queries**2).sum(1)[:, None] + longest**2 - 2 * pairwise("dot", queries, items)
    np.testing.assert_allclose(np.square(apart), expected, rtol=1e-3, atol=1e-3)

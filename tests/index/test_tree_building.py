"""Trees in a given order, at random and by 2-means; where new items go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.index import bisection
from recsys.index.item_tree import ItemTree
from recsys.index.tree_building import at_random, by_two_means, even_bounds, in_order
from recsys.types import Floats


def in_walking_order(tree: ItemTree) -> list[int]:
    rows = tree.rows[tree.left_to_right()]
    return rows[rows >= 0].tolist()


@given(st.integers(1, 300), st.floats(0, 3))
def test_items_stand_from_left_to_right_as_given(count: int, slack: float) -> None:
    order = np.random.default_rng(count).permutation(count).astype(np.int32)
    tree = in_order(order, slack)
    assert in_walking_order(tree) == order.tolist()
    assert tree.slots >= count * (1 + slack)


@given(st.integers(1, 300), st.floats(0, 3))
def test_vacancies_are_spread_evenly(count: int, slack: float) -> None:
    tree = in_order(np.arange(count, dtype=np.int32), slack)
    slots_below = tree.bottom_up(np.ones(tree.slots, np.int32), np.add)
    expected = slots_below * (count / tree.slots)
    assert np.abs(tree.occupied() - expected).max() < 1


@given(st.integers(1, 300))
def test_at_random_is_a_bijection_that_a_seed_fixes(count: int) -> None:
    tree = at_random(count, seed=3)
    assert sorted(in_walking_order(tree)) == list(range(count))
    assert tree.rows.tolist() == at_random(count, seed=3).rows.tolist()
    assert count < 20 or tree.rows.tolist() != at_random(count, seed=4).rows.tolist()


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="row 1 is in two leaves"):
        in_order(np.array([0, 1, 1], np.int32))
    with pytest.raises(DataError, match="at least one item"):
        in_order(np.empty(0, np.int32))
    for slack in (-0.1, np.nan, np.inf):
        with pytest.raises(ConfigError, match="slack"):
            in_order(np.arange(3, dtype=np.int32), slack)


@given(st.integers(1, 300), st.floats(0, 3))
def test_even_bounds_are_where_the_items_of_each_node_stand(count: int, slack: float) -> None:
    tree = in_order(np.arange(count, dtype=np.int32), slack)
    occupied = tree.occupied()
    for level in range(max(tree.depth, 1)):
        bounds = even_bounds(tree.slots, count, level)
        assert (bounds[0], bounds[-1]) == (0, count)
        assert np.diff(bounds).tolist() == occupied[(1 << level) - 1 : (1 << level + 1) - 1].tolist()


def spread_within(tree: ItemTree, vectors: Floats, level: int) -> float:
    """Mean squared distance of items from the mean of those below the same node."""
    rows = np.flatnonzero(tree.leaves >= 0).astype(np.int32)
    node = np.unique(tree.ancestors(rows, level), return_inverse=True)[1]
    sums, counts = np.zeros((node.max() + 1, vectors.shape[1])), np.bincount(node)
    np.add.at(sums, node, vectors[rows])
    return float(np.square(vectors[rows] - (sums / counts[:, None])[node]).sum(axis=1).mean())


@given(st.integers(1, 300), st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_two_means_place_each_item_once_with_even_vacancies(count: int, slack: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((count, 3), dtype=np.float32)
    tree = by_two_means(vectors, slack, seed)
    assert sorted(in_walking_order(tree)) == list(range(count))
    assert tree.occupied().tolist() == in_order(np.arange(count, dtype=np.int32), slack).occupied().tolist()


@given(st.integers(20, 100), st.floats(0, 5))
def test_two_means_of_many_blocks_with_hardly_any_item_each(count: int, slack: float) -> None:
    vectors = np.random.default_rng(count).standard_normal((count, 3), dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bisection, "_BLOCK", 8)
        tree = by_two_means(vectors, slack)
    assert sorted(in_walking_order(tree)) == list(range(count))


@pytest.mark.parametrize(("large", "sample"), [(8192, 4096), (64, 48)])
def test_two_means_find_planted_clusters(monkeypatch: pytest.MonkeyPatch, large: int, sample: int) -> None:
    monkeypatch.setattr(bisection, "_BLOCK", large)
    monkeypatch.setattr(bisection, "_SAMPLE", sample)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((16, 8), dtype=np.float32)
    coarse = np.repeat(10 * rng.standard_normal((2, 8), dtype=np.float32), 8, axis=0)
    planted = np.repeat(np.arange(16), 16)
    vectors = (coarse + centres)[planted] + 0.01 * rng.standard_normal((256, 8), dtype=np.float32)
    shuffled = rng.permutation(256)
    tree = by_two_means(vectors[shuffled])
    below = planted[shuffled][tree.rows[tree.left_to_right()]]
    assert [len(set(half // 8)) for half in below.reshape(2, 128)] == [1, 1]
    exact = [len(set(cluster)) for cluster in below.reshape(16, 16)].count(1)
    assert exact >= 12  # 2-means of clusters in one plane may cut one apart
    assert spread_within(tree, vectors[shuffled], 4) < 0.1 * spread_within(at_random(256), vectors[shuffled], 4)


def test_halves_are_where_balanced_two_means_come_to_rest() -> None:
    vectors = np.random.default_rng(2).standard_normal((512, 8), dtype=np.float32) * np.array([6, *[1] * 7], np.float32)
    tree = by_two_means(vectors)
    left = tree.ancestors(np.arange(512, dtype=np.int32), 1) == 1
    difference = np.square(vectors - vectors[left].mean(0)).sum(1) - np.square(vectors - vectors[~left].mean(0)).sum(1)
    assert left.sum() == 256
    assert set(np.argsort(difference)[:256].tolist()) == set(np.flatnonzero(left).tolist())
    along_the_longest = vectors[:, 0] > np.median(vectors[:, 0])
    assert max((left == along_the_longest).mean(), (left != along_the_longest).mean()) > 0.95


def test_equal_vectors_make_a_tree_like_others() -> None:
    tree = by_two_means(np.ones((100, 5), np.float32), 0.1)
    assert sorted(in_walking_order(tree)) == list(range(100))


def test_vectors_that_are_none_are_refused() -> None:
    spoilt = np.ones((9, 2), np.float32)
    spoilt[4, 1] = np.inf
    with pytest.raises(DataError, match="vector 4"):
        by_two_means(spoilt)
    with pytest.raises(DataError, match="at least one item"):
        by_two_means(spoilt[:0])

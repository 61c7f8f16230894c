"""Trees in a given order, at random and by 2-means; where new items go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError, PreconditionError
from recsys.index.item_tree import ItemTree
from recsys.index.tree_building import at_random, in_order, vacant_slots_near


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


@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_new_items_go_down_to_the_better_child_with_room(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gone = rng.permutation(count)[: max(1, count // 2)].astype(np.int32)
    tree = at_random(count, seed).without(gone)
    nodes = rng.standard_normal((tree.nodes, 4), dtype=np.float32)
    vectors = rng.standard_normal((len(gone), 4), dtype=np.float32)
    slots = vacant_slots_near(tree, nodes, vectors)
    walked = tree
    for row, slot, vector in zip(gone, slots, vectors, strict=True):
        room = walked.bottom_up(walked.rows < 0, np.logical_or)
        node = 0
        while node < tree.first_leaf:
            children = [child for child in (2 * node + 1, 2 * node + 2) if room[child]]
            node = max(children, key=lambda child: float(vector @ nodes[child]))
        assert slot == node - tree.first_leaf
        walked = walked.with_items(np.array([row]), np.array([slot]))
    assert walked.vacancies == 0
    with pytest.raises(PreconditionError, match="0 vacant leaves for 1"):
        vacant_slots_near(walked, nodes, vectors[:1])

"""New items in a tree: at vacant leaves, in the subtree of what they are like, and nobody else moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import PreconditionError
from recsys.index.tree_building import at_random, by_two_means, in_order
from recsys.index.tree_growth import grown, vacant_slots_near


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


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_whoever_has_a_leaf_keeps_it_and_the_others_get_one(count: int, new: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = at_random(count, seed, slack=1.0).renumbered(
        rng.permutation(count + new)[:count].astype(np.int32), count + new
    )
    vectors = rng.standard_normal((count + new, 3), dtype=np.float32)
    if new > count:
        with pytest.raises(PreconditionError, match=f"{count} vacant leaves for {new} new items"):
            grown(tree, vectors)
        return
    after = grown(tree, vectors)
    had = tree.leaves >= 0
    assert np.array_equal(after.leaves[had], tree.leaves[had])
    assert (after.leaves >= 0).all()
    assert after.slots == tree.slots


def test_a_new_item_goes_below_the_node_of_its_cluster() -> None:
    """Eight clusters along a line that does not meet the origin; the last items take the last vacant leaves."""
    rng = np.random.default_rng(0)
    clusters = np.arange(128) % 8
    vectors = np.stack([10.0 * clusters + 50.0, 30.0 + rng.standard_normal(128)], axis=1).astype(np.float32)
    known = in_order(np.argsort(clusters[:112], kind="stable").astype(np.int32), slack=1 / 7)
    after = grown(known.renumbered(np.arange(112, dtype=np.int32), 128), vectors)
    above = after.ancestors(np.arange(128, dtype=np.int32), 3)
    assert after.vacancies == 0
    assert above[112:].tolist() == above[:16].tolist()


def test_the_leaf_that_an_item_left_is_the_next_ones() -> None:
    vectors = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    tree = by_two_means(vectors)
    after = grown(tree.renumbered(np.array([0, 1, -1, 2]), 4), np.array([[0.0], [1.0], [11.0], [0.5]], np.float32))
    assert after.leaves[3] == tree.leaves[2]


def test_a_tree_that_lacks_nothing_stays_as_it_is() -> None:
    tree = at_random(7, slack=0.5)
    assert grown(tree, np.zeros((7, 2), np.float32)) is tree

"""ItemTree: a bijection of items and leaves whatever happens to it, and what is refused of a saved one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import BundleError, DataError
from recsys.index.item_tree import ItemTree
from recsys.index.tree_building import at_random, in_order


def walked_leaves(tree: ItemTree) -> list[tuple[int, int]]:
    """(node, depth) of the leaves, from left to right, by walking."""
    found = []

    def walk(node: int, depth: int) -> None:
        if node >= tree.first_leaf:
            found.append((node, depth))
        else:
            walk(2 * node + 1, depth + 1)
            walk(2 * node + 2, depth + 1)

    walk(0, 0)
    return found


def walked_ancestor(node: int, depth: int, level: int) -> int:
    while depth > level:
        node, depth = (node - 1) // 2, depth - 1
    return node


def assert_bijection(tree: ItemTree, items: set[int]) -> None:
    held = tree.rows[tree.rows >= 0].tolist()
    assert sorted(held) == sorted(items)
    for row, slot in enumerate(tree.leaves.tolist()):
        assert (slot >= 0) == (row in items)
        if slot >= 0:
            assert tree.rows[slot] == row


@given(st.integers(1, 200))
def test_depths_of_leaves_differ_by_at_most_one(slots: int) -> None:
    tree = at_random(slots)
    leaves = walked_leaves(tree)
    depths = {depth for _, depth in leaves}
    assert len(leaves) == slots
    assert max(depths) == tree.depth
    assert max(depths) - min(depths) <= 1
    assert [node - tree.first_leaf for node, _ in leaves] == tree.left_to_right().tolist()


@given(st.integers(1, 200))
def test_a_level_is_the_nodes_at_a_depth_and_the_last_one_all_leaves(slots: int) -> None:
    tree = at_random(slots)
    for level in range(tree.depth):
        assert all((node + 1).bit_length() == level + 1 for node in tree.level(level))
        assert len(tree.level(level)) == 2**level
    assert list(tree.level(tree.depth)) == sorted(node for node, _ in walked_leaves(tree))


@given(st.integers(1, 100), st.floats(0, 1))
def test_ancestors_are_those_of_a_walk_upwards(count: int, slack: float) -> None:
    tree = at_random(count, slack=slack)
    rows = np.arange(count, dtype=np.int32)
    depth_of = dict(walked_leaves(tree))
    levels = np.arange(tree.depth + 1)
    found = tree.ancestors(rows, levels[:, None])
    for level in levels.tolist():
        expected = []
        for slot in tree.leaves.tolist():
            node = slot + tree.first_leaf
            expected.append(walked_ancestor(node, depth_of[node], level))
        assert found[level].tolist() == tree.ancestors(rows, level).tolist() == expected
        assert set(expected) <= set(tree.level(level))


def test_an_item_that_is_not_in_the_tree_has_no_ancestor() -> None:
    tree = at_random(5).without(np.array([3], np.int32))
    assert tree.ancestors(np.array([3, 3], np.int32), 1).tolist() == [-1, -1]


@given(st.data(), st.integers(1, 60), st.floats(0, 2))
def test_any_sequence_of_insertions_and_removals_leaves_a_bijection(
    data: st.DataObject, count: int, slack: float
) -> None:
    tree, items = at_random(count, slack=slack), set(range(count))
    for _ in range(data.draw(st.integers(0, 6))):
        absent = sorted(set(range(len(tree) + 2)) - items)
        vacant = np.flatnonzero(tree.rows < 0).astype(np.int32)
        if data.draw(st.booleans()) and len(vacant):
            rows = data.draw(st.lists(st.sampled_from(absent), unique=True, min_size=1, max_size=len(vacant)))
            slots = np.array(data.draw(st.permutations(vacant.tolist()))[: len(rows)], np.int32)
            tree, items = tree.with_items(np.array(rows, np.int32), slots), items | set(rows)
            assert tree.leaves[rows].tolist() == slots.tolist()
        elif items:
            gone = data.draw(st.lists(st.sampled_from(sorted(items)), unique=True, min_size=1))
            tree, items = tree.without(np.array(gone, np.int32)), items - set(gone)
        assert_bijection(tree, items)
        assert tree.vacancies == tree.slots - len(items)
        assert tree.occupied()[0] == len(items)


@given(st.integers(1, 100), st.floats(0, 1))
def test_occupied_counts_the_items_below_each_node(count: int, slack: float) -> None:
    tree = at_random(count, slack=slack)
    counts = np.zeros(tree.nodes, np.int32)
    for slot in tree.leaves.tolist():
        node = slot + tree.first_leaf
        while node:
            counts[node] += 1
            node = (node - 1) // 2
        counts[0] += 1
    assert tree.occupied().tolist() == counts.tolist()


@given(st.integers(1, 100), st.data())
def test_children_of_nodes_stand_together_and_leaves_stay_behind(slots: int, data: st.DataObject) -> None:
    tree = at_random(slots)
    nodes = data.draw(st.lists(st.integers(0, tree.nodes - 1), unique=True))
    inner = [node for node in nodes if node < tree.first_leaf]
    expected = [child for node in inner for child in (2 * node + 1, 2 * node + 2)]
    expected += [node for node in nodes if node >= tree.first_leaf]
    assert tree.children(np.array(nodes, np.int64)).tolist() == expected


def test_a_taken_slot_or_an_item_twice_is_refused() -> None:
    tree = at_random(6).without(np.array([2, 4], np.int32))
    vacant = np.flatnonzero(tree.rows < 0).astype(np.int32)
    with pytest.raises(DataError, match="taken"):
        tree.with_items(np.array([2], np.int32), tree.leaves[[0]])
    with pytest.raises(DataError, match="one slot"):
        tree.with_items(np.array([2, 4], np.int32), vacant[[0, 0]])
    with pytest.raises(DataError, match="row 0 is in two leaves"):
        tree.with_items(np.array([0], np.int32), vacant[:1])
    with pytest.raises(DataError, match="row -2"):
        ItemTree(np.array([0, -2], np.int32), 1)
    with pytest.raises(DataError, match="row 7"):
        ItemTree(np.array([0, 7], np.int32), 7)
    with pytest.raises(DataError, match="slot"):
        ItemTree(np.empty(0, np.int32), 0)


def test_a_tree_follows_its_items_into_another_catalogue() -> None:
    tree = in_order(np.arange(5, dtype=np.int32))
    moved = tree.renumbered(np.array([4, -1, 0, 2, 6]), 7)
    assert moved.leaves[[4, 0, 2, 6]].tolist() == tree.leaves[[0, 2, 3, 4]].tolist()
    assert moved.leaves[[1, 3, 5]].tolist() == [-1, -1, -1]
    assert moved.vacancies == 1


def test_saved_and_opened_it_is_the_same_and_mapped(tmp_path: Path) -> None:
    tree = at_random(37, slack=0.3)
    tree.save(tmp_path)
    opened = ItemTree.open(tmp_path)
    assert opened.rows.tolist() == tree.rows.tolist()
    assert opened.leaves.tolist() == tree.leaves.tolist()
    assert (opened.slots, opened.depth, len(opened)) == (tree.slots, tree.depth, 37)
    assert not opened.rows.flags.writeable
    assert opened.without(np.array([5], np.int32)).leaves[5] == -1


def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    tree = at_random(300)
    tree.save(tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in ("rows.npy", "leaves.npy")}

    def refused(name: str, content: bytes | None, words: str) -> None:
        for each, original in whole.items():
            (tmp_path / each).write_bytes(original)
        if content is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BundleError, match=words):
            ItemTree.open(tmp_path)

    refused("rows.npy", None, "rows.npy: missing")
    refused("leaves.npy", whole["leaves.npy"][:-3], "leaves.npy: missing or damaged")
    refused("rows.npy", b"no array at all", "rows.npy: missing or damaged")
    altered = bytearray(whole["rows.npy"])
    altered[-4:] = np.int32(5000).tobytes()
    refused("rows.npy", bytes(altered), "rows.npy: damaged.*row 5000")
    altered[-4:] = altered[-8:-4]
    refused("rows.npy", bytes(altered), "rows.npy: damaged.*two leaves")
    altered = bytearray(whole["leaves.npy"])
    altered[-4:] = altered[-8:-4]
    refused("leaves.npy", bytes(altered), "leaves.npy: does not say")
    np.save(tmp_path / "floats.npy", np.zeros(300))
    refused("rows.npy", (tmp_path / "floats.npy").read_bytes(), r"rows.npy: holds float64 of shape \(300,\)")


def test_an_item_without_a_leaf_and_a_leaf_without_an_item_are_refused_by_name() -> None:
    ids = np.array([10, 20, 30, 40])
    tree = at_random(4)
    tree.check_holds(ids)
    with pytest.raises(BundleError, match=r"item 30 \(row 2\) is in the catalogue but not in the tree, as 1 of 4"):
        tree.without(np.array([2], np.int32)).check_holds(ids)
    with pytest.raises(BundleError, match=r"item 50 \(row 4\).*2 of 6"):
        tree.check_holds(np.array([10, 20, 30, 40, 50, 60]))
    with pytest.raises(BundleError, match="holds row 3, and the catalogue has 3 rows"):
        tree.check_holds(ids[:3])
    with pytest.raises(BundleError, match="holds row 3"):
        tree.without(np.array([0], np.int32)).check_holds(ids[:3])

"""Attention over behaviours, folded into one product a level, is the formula as a plain loop computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import BundleError, DataError
from recsys.index import node_attention
from recsys.index.item_tree import ItemTree
from recsys.index.node_attention import STEEPEST, NodeAttention
from recsys.index.tree_building import at_random
from recsys.index.tree_search import TreeSearch
from recsys.testing.trees import attention, score_by_loop

USER = np.random.default_rng(9).standard_normal(6, dtype=np.float32)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("behaviours", [0, 1, 3, 5, 12])
def test_every_node_has_the_score_of_the_formula(bias: bool, behaviours: int) -> None:
    tree = at_random(21, slack=0.2)
    model = attention(tree, bias=bias)
    user = np.append(USER, np.float32(1)) if bias else USER
    history = np.random.default_rng(1).integers(0, 21, behaviours).astype(np.int32)
    scorer = model.user(user, history)
    for level in range(tree.depth + 1):
        nodes = np.array(tree.level(level))
        expected = [score_by_loop(model, user, history, level, node) for node in nodes.tolist()]
        np.testing.assert_allclose(scorer.scores(level, nodes), expected, rtol=1e-5, atol=1e-5)


def test_a_behaviour_without_a_leaf_keeps_its_age_and_has_no_say() -> None:
    tree = at_random(21)
    model = attention(tree)
    history = np.array([4, 8, 15, 16], np.int32)
    pruned = NodeAttention(
        tree.without(np.array([8], np.int32)), model.nodes, model.keys, model.values, model.age_weight, model.cap
    )
    unheard = model.age_weight.copy()
    unheard[2] = -60
    deaf = NodeAttention(tree, model.nodes, model.keys, model.values, unheard, model.cap)
    nodes = np.array(tree.level(3))
    np.testing.assert_allclose(
        pruned.user(USER, history).scores(3, nodes), deaf.user(USER, history).scores(3, nodes), rtol=1e-5, atol=1e-5
    )


def test_behaviours_below_one_node_are_looked_at_once_with_what_all_of_them_count() -> None:
    tree = ItemTree(np.arange(8, dtype=np.int32), 8)
    counts = np.array([1, 2, 4, 8], np.float32)
    levels = attention(tree).behaviours(USER, np.array([0, 0, 1, 6], np.int32), counts, 0)
    assert [level.factors.tolist() for level in levels] == [[15], [7, 8], [7, 8], [3, 4, 8]]
    assert [len(level.weights) for level in levels] == [3, 5, 5, 7]


def test_levels_prepared_late_or_early_and_blocks_of_nodes_score_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = at_random(90)
    model = attention(tree)
    history = np.arange(4, dtype=np.int32)
    nodes = np.array(tree.level(6))
    from_the_root = model.user(USER, history)
    from_the_root.scores(0, np.array([0]))
    late = model.user(USER, history).scores(6, nodes)
    np.testing.assert_allclose(from_the_root.scores(6, nodes), late, rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(node_attention, "_BLOCK", 7)
    np.testing.assert_allclose(model.user(USER, history).scores(6, nodes), late, rtol=1e-6, atol=1e-6)


def test_extreme_products_stay_within_the_cap() -> None:
    tree = at_random(8)
    model = attention(tree)
    steep = NodeAttention(tree, 1e4 * model.nodes, model.keys, model.values, model.age_weight, STEEPEST)
    scores = steep.user(USER, np.arange(5, dtype=np.int32)).scores(3, np.array(tree.level(3)))
    assert np.isfinite(scores).all()


def test_a_behaviour_alone_has_all_the_say_however_little_its_age_counts() -> None:
    tree = at_random(8)
    model = attention(tree)
    ages = np.array([-300, 0, 0, 0, 0], np.float32)
    faint = NodeAttention(tree, model.nodes, model.keys, model.values, ages, model.cap)
    history, nodes = np.array([3], np.int32), np.array(tree.level(3))
    np.testing.assert_allclose(faint.user(USER, history).scores(3, nodes), model.user(USER, history).scores(3, nodes))


def test_a_beam_as_wide_as_the_tree_finds_what_the_formula_puts_first() -> None:
    tree = at_random(60)
    model = attention(tree)
    history = np.array([3, 1, 4, 15, 9], np.int32)
    found = TreeSearch(tree).search(model.user(USER, history), 10, 60)
    nodes = tree.ancestors(np.arange(60, dtype=np.int32), tree.depth)
    scores = [score_by_loop(model, USER, history, tree.depth, node) for node in nodes.tolist()]
    assert found.rows.tolist() == np.argsort(-np.array(scores))[:10].tolist()


def test_saved_and_opened_it_scores_the_same(tmp_path: Path) -> None:
    tree = at_random(30)
    model = attention(tree, bias=True)
    model.save(tmp_path)
    opened = NodeAttention.open(tmp_path, tree)
    user, history, nodes = np.append(USER, np.float32(1)), np.arange(9, dtype=np.int32), np.array(tree.level(4))
    assert opened.user(user, history).scores(4, nodes).tolist() == model.user(user, history).scores(4, nodes).tolist()


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    tree = at_random(30)
    attention(tree).save(tmp_path)
    whole = (tmp_path / "node_vectors.npy").read_bytes()
    (tmp_path / "node_vectors.npy").write_bytes(whole[:-9])
    with pytest.raises(BundleError, match=r"node_vectors\.npy: missing or damaged"):
        NodeAttention.open(tmp_path, tree)
    (tmp_path / "node_vectors.npy").write_bytes(whole)
    with pytest.raises(BundleError, match=r"node vectors are \(59, 6\)"):
        NodeAttention.open(tmp_path, at_random(31))
    for broken in ("{", '{"cap": 1, "more": 2}', '{"cap": -3}', '{"cap": 41}'):
        (tmp_path / "attention.json").write_text(broken)
        with pytest.raises(BundleError, match=r"attention\.json|cap"):
            NodeAttention.open(tmp_path, tree)
    (tmp_path / "attention.json").unlink()
    with pytest.raises(BundleError, match=r"attention\.json: cannot be read"):
        NodeAttention.open(tmp_path, tree)


def test_what_does_not_fit_is_refused() -> None:
    tree = at_random(10)
    model = attention(tree)
    with pytest.raises(DataError, match="must be 6 finite numbers"):
        model.user(USER[:5], np.empty(0, np.int32))
    with pytest.raises(DataError, match="must be 6 finite numbers"):
        model.user(USER * np.float32(np.nan), np.empty(0, np.int32))
    spoilt = model.nodes.copy()
    spoilt[7, 0] = np.nan
    with pytest.raises(DataError, match="node vector 7 is not a finite vector"):
        NodeAttention(tree, spoilt, model.keys, model.values, model.age_weight, 1.0)
    with pytest.raises(DataError, match="two square matrices"):
        NodeAttention(tree, model.nodes, model.keys, model.values[:3], model.age_weight, 1.0)

"""Beam search of a tree: brute force where the beam is wide, bounded work, and masks that never cost a row."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import FeatureMismatchError, RequestError
from recsys.index.item_tree import ItemTree
from recsys.index.tree_building import at_random
from recsys.index.tree_search import Found, TreeSearch
from recsys.testing.trees import TableScorer, anyhow, attention, brute_force, eligible_rows, max_heap
from recsys.types import Deadline, RowMask

seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.0, 0.02, 0.3, 1.0])


def drawn_tree(count: int, rng: np.random.Generator) -> ItemTree:
    """With vacancies from the start, and of items that are gone."""
    tree = at_random(count, int(rng.integers(1 << 30)), slack=float(rng.choice([0.0, 0.2])))
    return tree.without(rng.permutation(count)[: rng.integers(0, count // 4 + 1)].astype(np.int32))


def drawn_mask(count: int, share: float, rng: np.random.Generator) -> RowMask | None:
    return None if share == 1 else RowMask(rng.random(count) < share)


def pairs(found: Found) -> list[tuple[int, float]]:
    return list(zip(found.rows.tolist(), found.scores.tolist(), strict=True))


@given(st.integers(1, 250), st.integers(1, 20), shares, shares, seeds)
def test_a_beam_as_wide_as_the_widest_level_is_brute_force(
    count: int, k: int, allowed: float, excluded: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tree, mask = drawn_tree(count, rng), drawn_mask(count, allowed, rng)
    hidden = rng.permutation(count)[: int(excluded * count)].astype(np.int32)
    scorer = anyhow(tree, rng)
    found = TreeSearch(tree).search(scorer, k, tree.slots, mask, hidden)
    rows = eligible_rows(tree, None if mask is None else mask.allowed, hidden.tolist())
    assert pairs(found) == brute_force(tree, scorer, rows, k)
    assert found.stopped_at is None


@given(st.integers(1, 250), st.integers(1, 30), st.integers(1, 60), shares, shares, seeds)
def test_scores_that_are_the_greatest_below_make_any_beam_exact(
    count: int, k: int, beam: int, allowed: float, excluded: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tree, mask = drawn_tree(count, rng), drawn_mask(count, allowed, rng)
    hidden = rng.permutation(count)[: int(excluded * count)].astype(np.int32)
    rows = eligible_rows(tree, None if mask is None else mask.allowed, hidden.tolist())
    leaves = np.full(tree.slots, -np.inf, np.float32)
    leaves[tree.leaves[rows]] = rng.permutation(len(rows))
    scorer = TableScorer(tree.bottom_up(leaves, np.maximum))
    found = TreeSearch(tree).search(scorer, k, beam, mask, hidden)
    assert pairs(found) == brute_force(tree, scorer, rows, k)


@given(st.integers(1, 250), st.integers(1, 60), st.integers(1, 60), shares, shares, seeds)
def test_k_rows_come_back_whenever_they_are_eligible(
    count: int, k: int, beam: int, allowed: float, excluded: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tree, mask = drawn_tree(count, rng), drawn_mask(count, allowed, rng)
    hidden = rng.permutation(count)[: int(excluded * count)].astype(np.int32)
    rows = eligible_rows(tree, None if mask is None else mask.allowed, hidden.tolist())
    found = TreeSearch(tree).search(anyhow(tree, rng), k, beam, mask, hidden)
    assert len(found.rows) == len(set(found.rows.tolist())) == min(k, len(rows))
    assert set(found.rows.tolist()) <= set(rows)
    assert (np.diff(found.scores) <= 0).all()


@given(st.integers(2, 3000), st.integers(1, 80), shares, seeds)
def test_at_most_twice_the_beam_is_scored_a_level(count: int, beam: int, allowed: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tree = at_random(count, seed % 7)
    scorer = anyhow(tree, rng)
    found = TreeSearch(tree).search(scorer, min(beam, 10), beam, drawn_mask(count, allowed, rng))
    assert all(len(nodes) <= 2 * beam for nodes in scorer.asked.values())
    assert found.nodes_scored == scorer.count <= 2 * beam * math.ceil(math.log2(count))


@given(st.integers(1, 3000), st.integers(1, 80), seeds)
def test_the_search_begins_below_the_levels_that_a_beam_keeps_whole(count: int, beam: int, seed: int) -> None:
    tree = at_random(count)
    scorer = anyhow(tree, np.random.default_rng(seed))
    TreeSearch(tree).search(scorer, 1, beam)
    levels = sorted(scorer.asked)
    assert levels == list(range(levels[0], tree.depth + 1))
    assert levels[0] == tree.depth or len(tree.level(levels[0])) > beam
    assert levels[0] == 0 or len(tree.level(levels[0] - 1)) <= beam
    assert scorer.asked[levels[0]] == list(tree.level(levels[0]))


def test_ties_are_in_the_order_of_rows() -> None:
    tree = at_random(50)
    found = TreeSearch(tree).search(TableScorer(np.zeros(tree.nodes)), 20, 50)
    assert found.rows.tolist() == list(range(20))


def test_a_narrow_filter_is_scored_leaf_by_leaf() -> None:
    tree = at_random(4096)
    allowed = np.zeros(4096, bool)
    allowed[[5, 77, 4000]] = True
    scorer = anyhow(tree, np.random.default_rng(0))
    found = TreeSearch(tree).search(scorer, 2, 10, RowMask(allowed))
    assert list(scorer.asked) == [tree.depth]
    assert found.nodes_scored == 3


def test_a_mask_is_read_anew_when_it_has_changed() -> None:
    tree = at_random(64)
    search, allowed = TreeSearch(tree), np.ones(64, bool)
    for hidden in range(10):
        assert len(search.search(TableScorer(np.zeros(tree.nodes)), 64, 1, RowMask(allowed)).rows) == 64 - hidden
        allowed[hidden] = False


@given(st.integers(2, 250), st.integers(1, 30), st.integers(1, 30), shares, shares, seeds)
def test_out_of_time_it_returns_eligible_rows_of_the_level_it_reached(
    count: int, k: int, beam: int, allowed: float, excluded: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tree, mask = drawn_tree(count, rng), drawn_mask(count, allowed, rng)
    hidden = rng.permutation(count)[: int(excluded * count)].astype(np.int32)
    rows = eligible_rows(tree, None if mask is None else mask.allowed, hidden.tolist())
    scorer = max_heap(tree, rng)
    found = TreeSearch(tree).search(scorer, k, beam, mask, hidden, Deadline.after(-1))
    (level,) = scorer.asked
    assert found.stopped_at == (None if level == tree.depth else level)
    assert len(found.rows) == len(set(found.rows.tolist())) == min(k, len(scorer.asked[level]))
    assert set(found.rows.tolist()) <= set(rows)
    above = tree.ancestors(found.rows, level)
    assert found.scores.tolist() == scorer.table[above].tolist()
    assert found.scores.tolist() == sorted(scorer.table[scorer.asked[level]].tolist(), reverse=True)[: len(found.rows)]


def test_with_time_left_a_deadline_changes_nothing() -> None:
    tree = at_random(500)
    scorers = [anyhow(tree, np.random.default_rng(0)) for _ in range(2)]
    search = TreeSearch(tree)
    assert pairs(search.search(scorers[0], 9, 20, deadline=Deadline.after(60))) == pairs(
        search.search(scorers[1], 9, 20)
    )


def test_whoever_asked_before_in_whatever_thread_an_answer_has_the_same_bits() -> None:
    tree = at_random(700, slack=0.1)
    model, search = attention(tree), TreeSearch(tree)
    rng = np.random.default_rng(0)
    users = rng.standard_normal((6, 6), dtype=np.float32)
    histories = [rng.permutation(700)[: 2 * user].astype(np.int32) for user in range(6)]
    excluded = [rng.permutation(700)[:50].astype(np.int32) for _ in range(6)]
    mask = RowMask(rng.random(700) < 0.8)

    def answer(user: int) -> list[tuple[int, float]]:
        scorer = model.user(users[user], histories[user])
        return pairs(search.search(scorer, 10, 10 + 5 * user, mask, excluded[user]))

    alone = [answer(user) for user in range(6)]
    assert [answer(user) for user in reversed(range(6))] == alone[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, [*range(6)] * 20)) == alone * 20


def test_what_does_not_fit_is_refused() -> None:
    tree = at_random(10)
    search, scorer = TreeSearch(tree), TableScorer(np.zeros(19))
    with pytest.raises(RequestError, match="k = 0"):
        search.search(scorer, 0, 5)
    with pytest.raises(RequestError, match="beam = -1"):
        search.search(scorer, 1, -1)
    with pytest.raises(FeatureMismatchError, match="9 rows, the tree 10"):
        search.search(scorer, 1, 5, RowMask(np.ones(9, bool)))

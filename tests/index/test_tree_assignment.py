"""Items are shared out to nodes by likelihood under capacity: best where greed is, planted trees come back."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.errors import ConfigError, DataError
from recsys.index import tree_assignment
from recsys.index.item_tree import ItemTree, Nodes
from recsys.index.tree_assignment import Likelihoods, relearned, relearning, shared_out
from recsys.index.tree_building import at_random, in_order
from recsys.types import Floats, Offsets, Rows

seeds = st.integers(0, 2**32 - 1)


class Planted:
    """An item's samples like the path to the leaf it has in a hidden tree: 1 for each level that a node shares."""

    def __init__(self, hidden: ItemTree) -> None:
        self.hidden = hidden
        self.asked: list[tuple[int, int]] = []

    def __call__(self, rows: Rows, nodes: Nodes, sizes: Offsets, above: int, level: int) -> Floats:
        self.asked.append((above, level))
        nodes = np.repeat(nodes, sizes, axis=0)
        assert len(nodes) == len(rows)
        weights = np.zeros(nodes.shape, np.float32)
        on_level = np.isin(nodes, np.array(self.hidden.level(level)))
        assert on_level.all()
        deepest = np.frexp(nodes + 1.0)[1] - 1
        for between in range(above + 1, level + 1):
            ancestor = (nodes + 1 >> np.maximum(deepest - between, 0)) - 1
            weights += ancestor == self.hidden.ancestors(rows, between)[:, None]
        return weights


def like_any(made: Callable[[tuple[int, int]], NDArray[np.float64]]) -> Likelihoods:
    """Likelihoods that know nothing of items and nodes."""
    return lambda rows, nodes, sizes, above, level: made((len(rows), nodes.shape[1])).astype(np.float32)


def best_by_brute_force(weights: Floats, room: list[int]) -> float:
    """The greatest sum over all ways to share items out."""
    seats = [place for place, count in enumerate(room) for _ in range(count)]
    return max(
        float(sum(weights[item, place] for item, place in enumerate(way)))
        for way in set(itertools.permutations(seats, len(weights)))
    )


@given(st.integers(1, 7), st.data(), seeds)
def test_between_two_places_greed_is_the_best_there_is(count: int, data: st.DataObject, seed: int) -> None:
    left = data.draw(st.integers(0, count))
    weights = np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32)
    chosen = shared_out(weights, np.array([[left, count - left]]))
    assert np.bincount(chosen, minlength=2).tolist() == [left, count - left]
    found = float(weights[np.arange(count), chosen].sum())
    assert found == pytest.approx(best_by_brute_force(weights, [left, count - left]), abs=1e-5)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=4), seeds)
def test_among_more_places_first_choices_are_kept_where_all_fit(room: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.permutation(np.repeat(np.arange(len(room)), room))
    weights = rng.random((len(wanted), len(room))).astype(np.float32)
    weights[np.arange(len(wanted)), wanted] += 1
    assert shared_out(weights, np.array([room])).tolist() == wanted.tolist()


def asking_one_by_one(weights: Floats, room: list[int]) -> list[int]:
    """Items ask for their best place that has not turned them away; a full one turns away who loses least."""
    ranked = np.argsort(-weights, axis=1)
    tried = [0] * len(weights)
    held: list[list[int]] = [[] for _ in room]
    waiting = list(range(len(weights)))

    def loss(item: int) -> float:
        nth = tried[item]
        best, *others = (float(weights[item, place]) for place in ranked[item][nth : nth + 2])
        return best - others[0] if others else np.inf

    while waiting:
        item = waiting.pop()
        place = int(ranked[item, tried[item]])
        held[place].append(item)
        if len(held[place]) > room[place]:
            least = min(held[place], key=loss)
            held[place].remove(least)
            tried[least] += 1
            waiting.append(least)
    return [next(place for place, items in enumerate(held) if item in items) for item in range(len(weights))]


@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), seeds)
def test_all_at_once_is_as_one_by_one(room: list[int], seed: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((sum(room), len(room))).astype(np.float32)
    assert shared_out(weights, np.array([room])).tolist() == asking_one_by_one(weights, room)


def test_who_loses_least_gives_way() -> None:
    weights = np.array([[9, 8, 0], [9, 1, 0], [9, 8.5, 0]], np.float32)
    assert shared_out(weights, np.array([[1, 1, 1]])).tolist() == [2, 0, 1]
    assert best_by_brute_force(weights, [1, 1, 1]) == 17.5


@given(st.integers(1, 6), st.integers(1, 5), st.data(), seeds)
def test_groups_side_by_side_are_shared_out_as_each_alone(
    groups: int, places: int, data: st.DataObject, seed: int
) -> None:
    a_group = st.lists(st.integers(0, 3), min_size=places, max_size=places)
    room = np.array(data.draw(st.lists(a_group, min_size=groups, max_size=groups)))
    sizes = room.sum(axis=1)
    weights = np.random.default_rng(seed).standard_normal((int(sizes.sum()), places)).astype(np.float32)
    together = shared_out(weights, room)
    assert np.bincount(together, minlength=room.size).tolist() == room.ravel().tolist()
    ends = np.cumsum(sizes)
    for group, (start, stop) in enumerate(zip(ends - sizes, ends, strict=True)):
        alone = shared_out(weights[start:stop], room[group : group + 1])
        assert (together[start:stop] - group * places).tolist() == alone.tolist()


def test_items_that_nothing_is_known_of_stay_where_they_are() -> None:
    tree = at_random(50, slack=0.3)
    again = relearned(tree, like_any(np.zeros), 2)
    assert again.rows.tolist() == tree.rows.tolist()


@given(st.integers(1, 120), st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 8), seeds)
def test_planted_items_return_to_their_planted_leaves(count: int, slack: float, levels: int, seed: int) -> None:
    hidden, present = at_random(count, seed, slack), at_random(count, seed + 1, slack)
    likelihoods = Planted(hidden)
    learned = relearned(present, likelihoods, levels)
    assert learned.rows.tolist() == hidden.rows.tolist()
    assert likelihoods.asked == [(level, min(level + levels, hidden.depth)) for level in range(0, hidden.depth, levels)]


@given(st.integers(1, 120), st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 4), seeds)
def test_after_every_step_the_tree_is_a_bijection_settled_so_far(
    count: int, slack: float, levels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    gone = rng.permutation(count)[: count // 5].astype(np.int32)
    tree = at_random(count, seed, slack).without(gone)
    settled: ItemTree | None = None
    level = 0
    for step in relearning(tree, like_any(rng.standard_normal), levels):
        held = np.sort(step.rows[step.rows >= 0])
        assert held.tolist() == np.setdiff1d(np.arange(count), gone).tolist()
        assert (step.rows[step.leaves[held]] == held).all()
        if settled is not None:
            assert step.ancestors(held, level).tolist() == settled.ancestors(held, level).tolist()
        level, settled = min(level + levels, tree.depth), step
    assert level == tree.depth


def test_large_groups_go_down_fewer_levels_and_small_ones_share_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, present = at_random(100, 1), at_random(100, 2)
    monkeypatch.setattr(tree_assignment, "_LARGEST", 400)
    monkeypatch.setattr(tree_assignment, "_AT_ONCE", 256)
    likelihoods = Planted(hidden)
    assert relearned(present, likelihoods, 5).rows.tolist() == hidden.rows.tolist()
    assert likelihoods.asked == [(0, 2), *[(2, 5)] * 4, *[(5, 7)] * 2]


def test_a_step_raises_the_likelihood_of_the_items() -> None:
    count = 200
    tree = in_order(np.arange(count, dtype=np.int32))
    table = np.random.default_rng(0).standard_normal((count, tree.nodes)).astype(np.float32)
    table[:, ~np.isin(np.arange(tree.nodes), np.array(tree.level(4)))] = 0

    def likelihoods(rows: Rows, nodes: Nodes, sizes: Offsets, above: int, level: int) -> Floats:
        return table[rows[:, None], np.repeat(nodes, sizes, axis=0)]

    rows = np.arange(count, dtype=np.int32)
    learned = next(relearning(tree, likelihoods, 4))
    before, after = (table[rows, each.ancestors(rows, 4)].mean() for each in (tree, learned))
    assert after > before + 1.2


def test_what_does_not_fit_is_refused() -> None:
    tree = at_random(9)
    with pytest.raises(ConfigError, match="levels_at_once = 0"):
        relearned(tree, Planted(tree), 0)
    with pytest.raises(DataError, match=r"shape \(9,\) were given for 9 items and 16 nodes"):
        relearned(tree, lambda rows, nodes, sizes, above, level: np.zeros(len(rows), np.float32))
    with pytest.raises(DataError, match="not finite"):
        relearned(tree, like_any(lambda shape: np.full(shape, np.nan)))

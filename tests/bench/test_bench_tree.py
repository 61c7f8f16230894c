"""What a tree of a million items costs to build, to search, to filter and to learn again.

Run with `pytest -m bench tests/bench/test_bench_tree.py`; the figures belong to the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from recsys.index.eligible_nodes import EligibleNodes
from recsys.index.item_tree import ItemTree, Nodes
from recsys.index.node_attention import NodeAttention
from recsys.index.tree_assignment import relearned
from recsys.index.tree_building import at_random, by_two_means
from recsys.index.tree_search import TreeSearch
from recsys.types import Floats, Rows
from services.cli.bench.index_worlds import mixture

pytestmark = pytest.mark.bench

Benchmark = Callable[..., Any]
ITEMS, DIM, ATTENDED, USERS = 1_000_000, 64, 50, 500


@pytest.fixture(scope="module")
def tree() -> ItemTree:
    return at_random(ITEMS)


@pytest.fixture(scope="module")
def attention(tree: ItemTree) -> NodeAttention:
    rng = np.random.default_rng(0)
    nodes = rng.standard_normal((tree.nodes, DIM), dtype=np.float32)
    same = np.eye(DIM, dtype=np.float32)
    return NodeAttention(tree, nodes, same, same, np.zeros(ATTENDED, np.float32), 8.0)


def test_balanced_two_means_of_a_million_vectors(benchmark: Any) -> None:
    vectors, _ = mixture(ITEMS, DIM, 0.3, 1)
    built = benchmark.pedantic(by_two_means, (vectors,), rounds=1)
    assert built.vacancies == 0


@pytest.mark.parametrize("beam", [50, 200])
@pytest.mark.parametrize("excluded", [0, 200])
def test_a_search_for_one_user(
    benchmark: Benchmark, tree: ItemTree, attention: NodeAttention, beam: int, excluded: int
) -> None:
    """Another user each time, so that node vectors come from memory as they do when serving."""
    rng = np.random.default_rng(1)
    users = rng.standard_normal((USERS, DIM), dtype=np.float32)
    histories = rng.integers(0, ITEMS, (USERS, ATTENDED), dtype=np.int32)
    hidden = rng.integers(0, ITEMS, (USERS, excluded), dtype=np.int32)
    search, turn = TreeSearch(tree), count()

    def one() -> object:
        user = next(turn) % USERS
        return search.search(attention.user(users[user], histories[user]), min(100, beam), beam, None, hidden[user])

    benchmark(one)


def test_eligible_nodes_of_a_new_mask(benchmark: Benchmark, tree: ItemTree) -> None:
    allowed = np.random.default_rng(0).random(ITEMS) < 0.3
    benchmark(lambda: EligibleNodes(tree, allowed))


def test_sharing_out_a_tenth_of_the_items_by_likelihoods_at_random(benchmark: Any) -> None:
    small = at_random(ITEMS // 10)
    rng = np.random.default_rng(0)

    def likelihoods(rows: Rows, nodes: Nodes, above: int, level: int) -> Floats:
        return rng.standard_normal(nodes.shape, dtype=np.float32)

    learned = benchmark.pedantic(relearned, (small, likelihoods), rounds=1)
    assert np.array_equal(np.sort(learned.rows), np.sort(small.rows))

"""Largest dot products in a graph: links by one more coordinate and distance against links by inner product.

Run with `pytest -m bench -s tests/bench/test_bench_graph.py`; prints recall@100 and distances computed a query.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from recsys.index.dots import norms, unit
from recsys.index.recall import recall_at
from recsys.index.similarity import dot, mips_items, mips_queries
from recsys.types import Floats

pytestmark = pytest.mark.bench

COUNT, DIM, QUERIES, K = 20_000, 32, 300, 100


def clusters(spread: float) -> tuple[Floats, Floats]:
    """Items around 100 centres with log-normal lengths of the given spread, and queries around them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, DIM))
    items = centres[rng.integers(0, 100, COUNT)] + 0.5 * rng.standard_normal((COUNT, DIM))
    queries = centres[rng.integers(0, 100, QUERIES)] + 0.5 * rng.standard_normal((QUERIES, DIM))
    return (items * rng.lognormal(0, spread, (COUNT, 1))).astype(np.float32), queries.astype(np.float32)


def with_bias() -> tuple[Floats, Floats]:
    """As a two-tower's: directions of one length, and one column of biases that each query multiplies by 1."""
    items, queries = clusters(0.0)
    items, queries = (3 * unit(vectors, norms(vectors)) for vectors in (items, queries))
    bias = np.random.default_rng(1).standard_normal((COUNT, 1), np.float32)
    return np.hstack((items, bias)), np.hstack((queries, np.ones((QUERIES, 1), np.float32)))


def structureless() -> tuple[Floats, Floats]:
    """Independent normal columns."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((COUNT, DIM), np.float32), rng.standard_normal((QUERIES, DIM), np.float32)


WORLDS = {
    "clusters, equal spread": lambda: clusters(0.0),
    "clusters, lengths spread .1": lambda: clusters(0.1),
    "clusters, lengths spread .3": lambda: clusters(0.3),
    "clusters, lengths spread .5": lambda: clusters(0.5),
    "two-tower with biases": with_bias,
    "no structure": structureless,
}


@pytest.mark.parametrize("world", WORLDS)
def test_links_by_distance_against_links_by_product(world: str) -> None:
    items, queries = WORLDS[world]()
    scores = dot(queries, items)
    longest = float(norms(items).max())
    by_distance = graph(mips_items(items, longest), faiss.METRIC_L2)
    by_product = graph(items, faiss.METRIC_INNER_PRODUCT)
    scaled = mips_queries(longest * unit(queries, norms(queries)))
    for held in (100, 200, 400):
        distance, product = found(by_distance, scaled, scores, held), found(by_product, queries, scores, held)
        print(f"{world:28} holding {held}: by distance {distance}, by product {product}")


def graph(vectors: Floats, metric: int) -> Any:
    index: Any = faiss.IndexHNSWFlat(vectors.shape[1], 16, metric)
    index.hnsw.efConstruction = 100
    index.add(vectors)
    return index


def found(index: Any, queries: Floats, scores: Floats, held: int) -> str:
    index.hnsw.efSearch = held
    statistics: Any = faiss.cvar.hnsw_stats
    statistics.reset()
    rows = index.search(queries, K)[1]
    best = -np.sort(-np.take_along_axis(scores, rows, 1), axis=1)
    recall = recall_at(best, -np.sort(-scores, axis=1)[:, :K])
    return f"{recall:.3f} ({statistics.ndis // QUERIES} distances)"

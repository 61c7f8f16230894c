"""What retrieval costs: the cascade around a channel, filters, exact and inverted search, one user at a time.

Run with `pytest -m bench tests/bench/test_bench_retrieval.py`; the figures belong to the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from recsys.cascade.cascade import Cascade
from recsys.cascade.merge import RankCurves, RankFusion
from recsys.index.config import IndexConfig, Kind
from recsys.index.vector_index import VectorIndex
from recsys.retrieval.neighbour_channel import NeighbourChannel
from recsys.retrieval.static_channel import StaticChannel
from recsys.testing.channel_contract import users_with_histories
from recsys.types import Candidates, Deadline, RaggedRows, RowMask, Users
from services.cli.bench.index_worlds import mixture

pytestmark = pytest.mark.bench

Benchmark = Callable[..., Any]
HISTORY = users_with_histories([list(range(200))])


class Instant:
    """A channel that costs nothing, so that what remains is the cascade."""

    name = "instant"

    def __init__(self) -> None:
        rows = np.arange(100, dtype=np.int32)
        self.answer = Candidates(rows, -rows.astype(np.float32), np.ones(100, np.uint32), np.array([0, 100]))

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        return self.answer


def test_cascade_around_one_channel(benchmark: Benchmark) -> None:
    cascade = Cascade([Instant()])
    benchmark(lambda: cascade.recall(HISTORY, 100, deadline=Deadline.after(60)))


def test_cascade_run_around_one_channel(benchmark: Benchmark) -> None:
    cascade = Cascade([Instant()])
    benchmark(lambda: cascade.run(HISTORY, 100, deadline=Deadline.after(60)))


@pytest.mark.parametrize("channels", [3, 4])
def test_merging_lists_of_500_for_a_user(benchmark: Benchmark, channels: int) -> None:
    """Another user each time: a sort that has seen the numbers before is faster."""
    rng = np.random.default_rng(0)
    names = [f"channel_{i}" for i in range(channels)]
    fusion = RankFusion(RankCurves(places=(1, 8, 501), log_odds=dict.fromkeys(names, (4.0, 3.0, 0.0))))

    def lists() -> dict[str, Candidates]:
        rows = [rng.permutation(3_000)[None, :500] for _ in names]
        return {
            name: Candidates.from_matrix(one, np.ones((1, 500), np.float32))
            for name, one in zip(names, rows, strict=True)
        }

    users = cycle([lists() for _ in range(200)])
    benchmark(lambda: fusion.merge(next(users), 500))


def test_static_channel_of_a_million_rows(benchmark: Benchmark) -> None:
    channel = StaticChannel("popularity", np.random.default_rng(0).random(1_000_000, dtype=np.float32))
    benchmark(lambda: channel.recall(HISTORY, 100))


def test_neighbour_channel_with_200_voters_of_50(benchmark: Benchmark) -> None:
    rng = np.random.default_rng(0)
    neighbours = RaggedRows.of([rng.choice(4_000, 50, replace=False) for _ in range(4_000)])
    channel = NeighbourChannel("item_knn", neighbours, rng.random(200_000, dtype=np.float32))
    benchmark(lambda: channel.recall(HISTORY, 100))


@pytest.mark.parametrize(("kind", "count"), [("flat", 3_416), ("flat", 100_000), ("ivf", 200_000)])
@pytest.mark.parametrize("batch", [1, 1_000])
def test_search_with_200_exclusions(benchmark: Benchmark, kind: Kind, count: int, batch: int) -> None:
    vectors, queries = mixture(count, 64, 0.3, 1_000)
    index, report = VectorIndex.build(vectors, IndexConfig(kind=kind, device="cpu", tuning_queries=100), queries)
    excluded = RaggedRows.of([np.arange(200, dtype=np.int32)] * batch)
    benchmark.extra_info["recall_at_100"] = report.recall_at_100  # type: ignore[attr-defined]
    benchmark(lambda: index.search(queries[:batch], 100, None, excluded))

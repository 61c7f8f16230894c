"""A cluster holds so many workers and no more, each with as many CPUs as all can have."""

from __future__ import annotations

import pytest

from pipelines.cluster import Node, threads_each
from recsys.errors import UsageError


@pytest.mark.parametrize(
    ("workers", "nodes", "threads"),
    [
        (2, [Node(2)], 1),
        (2, [Node(9)], 4),
        (2, [Node(2), Node(2)], 2),
        (3, [Node(4), Node(2)], 2),
        (5, [Node(4), Node(2)], 1),
        (2, [Node(8), Node(1)], 4),
        (2, [Node(16, 2)], 8),
        (2, [Node(16, 1), Node(4, 1), Node(32)], 4),
    ],
)
def test_workers_share_cpus_evenly_and_each_has_a_gpu_where_there_are_any(
    workers: int, nodes: list[Node], threads: int
) -> None:
    assert threads_each(workers, nodes) == threads


@pytest.mark.parametrize(
    ("workers", "nodes", "told"),
    [
        (8, [Node(2)], "--workers 8: the cluster has 2 CPUs in 1 node,"),
        (4, [Node(2), Node(1)], "--workers 4: the cluster has 3 CPUs in 2 nodes,"),
        (3, [Node(64, 2)], "--workers 3: the cluster has 2 GPUs in 1 node,"),
        (2, [Node(0, 4)], "--workers 2"),
    ],
)
def test_more_workers_than_a_cluster_holds_are_refused(workers: int, nodes: list[Node], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        threads_each(workers, nodes)

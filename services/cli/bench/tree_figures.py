"""Figures of one tree: its searches by beam, and every leaf scored, beside searches of the same items in other ways."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from recsys.index.config import IndexConfig
from recsys.index.node_attention import UserAttention
from recsys.index.tree_search import Found, TreeSearch
from recsys.index.vector_index import VectorIndex
from recsys.types import Floats, Rows
from services.cli.bench.tree_world import TreeWorld

K: Final = 100
_WARM_UP: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    """What scoring every leaf gives one user.

    Attributes:
        rows: the best K, in any order.
        mean: of their scores.
        spread: standard deviation of all scores.
    """

    rows: Rows
    mean: float
    spread: float


def figures(world: TreeWorld, beams: Sequence[int], compared: int) -> dict[str, Any]:
    """What is built, kept and found, and microseconds a user.

    Args:
        world: tree and users.
        beams: widths to search with.
        compared: how many users have every leaf scored.
    """
    attention, count, users = world.attention, len(world.items), len(world.users)
    ivf, report = VectorIndex.build(world.items, IndexConfig(kind="ivf", device="cpu"), world.users)
    compared = min(compared, users)
    best = [_best(world, user) for user in range(compared)]
    every_leaf = _median(_micros(lambda user: _every_leaf(world, user), compared))
    flat = _micros(lambda user: world.exact.search(world.users[user : user + 1], K), users)
    lists = _micros(lambda user: ivf.search(world.users[user : user + 1], K), users)
    return {
        "n": count,
        "depth": attention.tree.depth,
        "build_seconds": round(world.build_seconds, 3),
        "bytes_per_leaf": round((attention.tree.rows.nbytes + attention.tree.leaves.nbytes) / count, 2),
        "vector_bytes_per_leaf": round(attention.nodes.nbytes / count, 1),
        "every_leaf_micros": every_leaf,
        "flat_micros": _median(flat),
        "ivf_micros": _median(lists),
        "ivf_recall_at_100": round(report.recall_at_100, 4),
        "ivf_vectors_scored": round(report.lists + count * report.probes / report.lists, 1),
        "beams": [_of_beam(world, beam, best, every_leaf) for beam in beams],
    }


def _of_beam(world: TreeWorld, beam: int, best: Sequence[_Best], every_leaf: float) -> dict[str, Any]:
    search = TreeSearch(world.attention.tree)
    micros = _micros(lambda user: _searched(search, world, user, beam), len(world.users))
    found = [_searched(search, world, user, beam) for user in range(len(best))]
    pairs = list(zip(found, best, strict=True))
    return {
        "beam": beam,
        "micros": _median(micros),
        "speedup": round(every_leaf / _median(micros), 1),
        "micros_p99": round(statistics.quantiles(micros, n=100)[98] if len(micros) > 1 else micros[0], 1),
        "nodes_scored": round(statistics.mean(each.nodes_scored for each in found), 1),
        "recall_at_100": round(statistics.mean(np.isin(b.rows, f.rows).mean() for f, b in pairs), 4),
        "regret_at_100": round(statistics.mean((b.mean - float(f.scores.mean())) / b.spread for f, b in pairs), 4),
    }


def _asked(world: TreeWorld, user: int) -> UserAttention:
    return world.attention.user(world.users[user], world.histories[user])


def _searched(search: TreeSearch, world: TreeWorld, user: int, beam: int) -> Found:
    """The history side is part of every search."""
    return search.search(_asked(world, user), K, beam)


def _every_leaf(world: TreeWorld, user: int) -> tuple[Rows, Floats]:
    """The K best leaves' places, in any order, and the scores of all leaves."""
    leaves = world.attention.tree.level(world.attention.tree.depth)
    scores = _asked(world, user).scores(world.attention.tree.depth, np.arange(leaves.start, leaves.stop))
    count = min(K, len(scores))
    return np.argpartition(-scores, count - 1)[:count].astype(np.int32), scores


def _best(world: TreeWorld, user: int) -> _Best:
    places, scores = _every_leaf(world, user)
    return _Best(world.attention.tree.rows[places], float(scores[places].mean()), float(scores.std()))


def _micros(search: Callable[[int], object], users: int) -> list[float]:
    """Microseconds of each user's search, after some that are not counted."""
    for user in range(min(_WARM_UP, users)):
        search(user)
    micros = []
    for user in range(users):
        started = time.perf_counter()
        search(user)
        micros.append((time.perf_counter() - started) * 1e6)
    return micros


def _median(micros: Sequence[float]) -> float:
    return round(statistics.median(micros), 1)

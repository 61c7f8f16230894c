"""What a beam finds of what every leaf would give, with the same scorer: recall, regret, nodes scored, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from recsys.index.node_attention import NodeAttention
from recsys.index.tree_search import Found, TreeSearch
from recsys.types import Floats, Rows, Users

BEAMS: Final = (10, 20, 50, 100, 200, 500)
WANTED: Final = (10, 50)
"""Lengths of the lists that are compared."""


@dataclass(frozen=True, slots=True)
class BeamQuality:
    """A beam over a sample of users.

    Attributes:
        beam: nodes kept a level.
        recall: by length of list, the share of the best leaves that the beam's list has.
        regret: by length of list, what the mean score of the best leaves is above that of the beam's list.
        hit_rate: share of the users whose next item is among the first 10.
        nodes_scored: mean.
        micros: median of a search, on this machine.
    """

    beam: int
    recall: dict[int, float]
    regret: dict[int, float]
    hit_rate: float
    nodes_scored: float
    micros: float


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A sample of users.

    Attributes:
        users: B of them, with histories and exclusions.
        vectors: (B, d') of theirs.
        targets: (B,) rows that they chose next.
    """

    users: Users
    vectors: Floats
    targets: Rows


def beam_quality(attention: NodeAttention, asked: Asked, default_beam: int) -> list[BeamQuality]:
    """Beams up to the number of leaves, the default one among them; the last is as wide as the tree, brute force."""
    search = TreeSearch(attention.tree)
    widest = attention.tree.slots
    narrower = [beam for beam in sorted({*BEAMS, default_beam}) if beam < widest]
    with threadpool_limits(1, "blas"):  # as a server has it
        exact, micros = _search(search, attention, asked, widest)
        found = [_compared(beam, *_search(search, attention, asked, beam), exact, asked) for beam in narrower]
    return [*found, _compared(widest, exact, micros, exact, asked)]


def _search(search: TreeSearch, attention: NodeAttention, asked: Asked, beam: int) -> tuple[list[Found], list[float]]:
    """What each user is given, as many rows as the beam is wide but 10 to 50, and the microseconds."""
    wanted = min(max(WANTED), max(beam, min(WANTED)))
    found, micros = [], []
    for user, vector in enumerate(asked.vectors):
        started = time.perf_counter_ns()
        scorer = attention.user(vector, asked.users.history[user])
        found.append(search.search(scorer, wanted, beam, excluded=asked.users.excluded[user]))
        micros.append((time.perf_counter_ns() - started) / 1000.0)
    return found, micros


def _compared(beam: int, found: list[Found], micros: list[float], exact: list[Found], asked: Asked) -> BeamQuality:
    hits = [target in one.rows[:10] for one, target in zip(found, asked.targets, strict=True)]
    pairs = list(zip(found, exact, strict=True))
    lengths = [length for length in WANTED if length <= max(beam, min(WANTED))]
    return BeamQuality(
        beam=beam,
        recall={k: _mean([np.isin(best.rows[:k], one.rows[:k]).mean() for one, best in pairs]) for k in lengths},
        regret={k: max(0.0, _mean([_worse(one, best, k) for one, best in pairs])) for k in lengths},
        hit_rate=_mean(hits),
        nodes_scored=_mean([one.nodes_scored for one in found]),
        micros=float(np.median(micros)),
    )


def _worse(found: Found, best: Found, k: int) -> float:
    return float(best.scores[:k].mean() - found.scores[:k].mean())


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

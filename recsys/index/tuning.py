"""How much an approximate index must read to find what exact search finds: measured on real queries, never guessed."""

from __future__ import annotations

import math
from collections.abc import Callable

from recsys.index.approximate import TUNED_FOR, ApproximateSearch
from recsys.index.config import IndexConfig, IndexReport
from recsys.index.inverted_file import InvertedFile
from recsys.index.recall import least_effort

_DEEP, _DEEP_QUERIES = 1_000, 100
MOST_CANDIDATES = 16
"""Tuning has at most so many rows proposed for each row asked for."""

Recall = Callable[[int, int | None], float]
"""(k, number of queries or None for all) → share of the exact top k that the engine finds as it is now set."""


def tune(engine: ApproximateSearch, config: IndexConfig, recall: Recall) -> None:
    """Sets what a search reads: what is asked for, else the least that meets the target.

    Found for 100 rows, and on fewer queries for 1,000: how the one grows into the other is a matter of the
    vectors too, and large k and filters are searched by it. Where codes put rows out of order there are two
    settings: effort may lose half of what the target lets be lost; candidates the rest, but as much as that half
    where effort has lost too much already.
    """
    quantised = isinstance(engine, InvertedFile) and engine.pq_bytes > 0
    target = config.recall_target
    if quantised:
        engine.candidates = config.candidates or MOST_CANDIDATES
    asked = config.ef_search if config.kind == "hnsw" else config.probes
    if asked is not None:
        engine.effort = min(asked, engine.most)
    else:
        _tune_effort(engine, config, recall, (1 + target) / 2 if quantised and not config.candidates else target)
    if quantised and config.candidates is None:
        engine.candidates = _least_candidates(engine, recall, target)


def _tune_effort(engine: ApproximateSearch, config: IndexConfig, recall: Recall, target: float) -> None:
    most = max(1, int(engine.most * (config.probe_limit if isinstance(engine, InvertedFile) else 1)))
    engine.growth = 0.0

    def least(k: int, queries: int | None) -> int:
        def reaches(effort: int) -> bool:
            engine.effort = effort
            return recall(k, queries) >= target

        return least_effort(reaches, most, engine.least(k))

    deep = least(_DEEP, _DEEP_QUERIES)
    engine.effort = least(TUNED_FOR, None)
    engine.growth = math.log(max(1.0, deep / engine.effort)) / math.log(_DEEP / TUNED_FOR)


def _least_candidates(engine: ApproximateSearch, recall: Recall, target: float) -> float:
    """In quarters of a row, for 100 rows as for 1,000."""
    depths = ((TUNED_FOR, None), (_DEEP, _DEEP_QUERIES))
    floors = [min(target, recall(*depth) - (1 - target) / 2) for depth in depths]

    def reaches(quarters: int) -> bool:
        engine.candidates = quarters / 4
        return all(recall(*depth) >= floor for depth, floor in zip(depths, floors, strict=True))

    return least_effort(reaches, MOST_CANDIDATES * 4, 5) / 4


def remedy(report: IndexReport) -> str:
    """What an index below its target reads, and which setting would let it find more."""
    match report.kind:
        case "hnsw":
            return f"a search holds {report.ef_search} nodes: raise links or ef_construction"
        case "ivfpq":
            read = f"a search reads {report.probes} of {report.lists} lists, {report.pq_bytes} bytes an item"
            return f"{read}: raise pq_bytes or probe_limit"
        case _:
            return f"a search reads {report.probes} of {report.lists} lists: raise probe_limit"

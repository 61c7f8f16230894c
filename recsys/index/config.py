"""What an index is to be (`IndexConfig`) and what it turned out to be (`IndexReport`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.config import Config

Metric = Literal["dot", "cosine", "l2"]
Kind = Literal["flat", "ivf", "ivfpq", "hnsw"]
Device = Literal["auto", "cpu", "cuda"]

FLAT_UP_TO = 20_000
"""Rows up to which `auto` searches exactly: one core takes about 100 µs for vectors of 64 floats, lists no less."""
FLAT_AFTER_ALL_UP_TO = 100_000
"""Rows up to which `auto` searches exactly where lists miss the target: 2 ms for one user."""


class IndexConfig(Config):
    """How to index a catalogue's vectors.

    Attributes:
        kind: `flat` is exact; `ivf` is an inverted file of half-precision vectors; `ivfpq` one of a few bytes an
            item, rotated for it (OPQ); `hnsw` a graph of neighbours. What is not flat proposes rows that are scored
            exactly. `auto` is flat up to FLAT_UP_TO rows, and up to FLAT_AFTER_ALL_UP_TO where `ivf` misses the
            target; else `ivf`.
        metric: `cosine` is the dot product of vectors scaled to length 1, `l2` the negated squared distance.
        recall_target: share of the exact top 100 that the index must find.
        strict: refuse an index below the target, rather than warn.
        lists: of `ivf` and `ivfpq`: inverted lists; None = the power of two next to 4·√N.
        probes: lists a search for 100 rows reads; None = as few as the target takes.
        probe_limit: the largest share of the lists that tuning may have a search read.
        pq_bytes: of `ivfpq`: bytes of an item's code; None = a quarter of the columns.
        candidates: of `ivfpq`: rows proposed, and so scored exactly, for each row asked for; None = as few as the
            target takes.
        links: of `hnsw`: neighbours a node is linked to, twice as many in the lowest layer (M of the paper).
        ef_construction: of `hnsw`: nodes that the search for a new node's neighbours holds.
        ef_search: of `hnsw`: nodes that a search for 100 rows holds; None = as few as the target takes.
        tuning_queries: how many query vectors recall is measured with.
        device: `cuda` must find a GPU, `auto` takes one that is there.
    """

    kind: Literal["auto", "flat", "ivf", "ivfpq", "hnsw"] = "auto"
    metric: Metric = "dot"
    recall_target: float = Field(default=0.99, gt=0, le=1)
    strict: bool = False
    lists: int | None = Field(default=None, ge=1)
    probes: int | None = Field(default=None, ge=1)
    probe_limit: float = Field(default=0.25, gt=0, le=1)
    pq_bytes: int | None = Field(default=None, ge=1, le=1024)
    candidates: float | None = Field(default=None, ge=1, le=1000)
    links: int = Field(default=16, ge=2, le=256)
    ef_construction: int = Field(default=100, ge=1, le=100_000)
    ef_search: int | None = Field(default=None, ge=1)
    tuning_queries: int = Field(default=500, ge=1)
    device: Device = "auto"
    seed: int = 0


class IndexReport(Config):
    """What was built, and how well it finds what exact search finds.

    Attributes:
        lists, probes: inverted lists, and how many of them a search for 100 rows reads; 0 where there are none.
        pq_bytes: bytes of a product-quantised code; 0 where there are none.
        candidates: rows proposed, and so scored exactly, for each row asked for; 1 for a flat index.
        links, ef_search: of a graph, and how many nodes a search for 100 rows holds; 0 where there is none.
        probe_growth: a search c times as deep reads c ** probe_growth times as many lists, or holds as many more nodes.
        scale: what vectors were multiplied by before FAISS got them, so that half precision holds them.
        recall_at_100: share of the exact top 100 found, as measured with `queries` vectors.
        query_source: `users` when the caller gave query vectors, else `items`.
        bytes_per_item: what is kept of an item on disk, exact vector included.
        memory_bytes_per_item: what a search reads of an item before any is scored exactly: of a flat index the exact
            vectors, else lists, codes or links without them. The exact vectors are mapped from disk in any case.
        warning: one sentence when the target is missed.
        lists_bytes: size of the saved lists or graph; mapped memory past the end of a cut file would kill the process.
    """

    kind: Kind
    metric: Metric
    count: int
    dim: int
    lists: int
    probes: int
    pq_bytes: int = 0
    candidates: float = 1.0
    links: int = 0
    ef_search: int = 0
    probe_growth: float = 1.0
    scale: float = 1.0
    recall_at_100: float
    recall_target: float
    queries: int
    query_source: Literal["users", "items"]
    build_seconds: float
    bytes_per_item: float
    memory_bytes_per_item: float = 0.0
    device: Literal["cpu", "cuda"]
    warning: str | None = None
    lists_bytes: int = 0

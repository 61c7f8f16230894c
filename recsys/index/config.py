"""What an index is to be (`IndexConfig`) and what it turned out to be (`IndexReport`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.config import Config

Metric = Literal["dot", "cosine"]
Kind = Literal["flat", "ivf"]
Device = Literal["auto", "cpu", "cuda"]

FLAT_UP_TO = 100_000
"""Rows up to which `auto` searches exactly: one core reads 100,000 vectors of 64 floats in about a millisecond."""


class IndexConfig(Config):
    """How to index a catalogue's vectors.

    Attributes:
        kind: `flat` is exact; `ivf` is an inverted file of half-precision vectors, re-scored exactly;
            `auto` is flat up to FLAT_UP_TO rows.
        metric: `cosine` is the dot product of vectors scaled to length 1.
        recall_target: share of the exact top 100 that the index must find.
        strict: refuse an index below the target, rather than warn.
        lists: inverted lists; None = the power of two next to 4·√N.
        probes: lists a search for 100 rows reads; None = as many as the target takes.
        probe_limit: the largest share of the lists that tuning may have a search read.
        tuning_queries: how many query vectors recall is measured with.
        device: `cuda` must find a GPU, `auto` takes one that is there.
    """

    kind: Literal["auto", "flat", "ivf"] = "auto"
    metric: Metric = "dot"
    recall_target: float = Field(default=0.99, gt=0, le=1)
    strict: bool = False
    lists: int | None = Field(default=None, ge=1)
    probes: int | None = Field(default=None, ge=1)
    probe_limit: float = Field(default=0.25, gt=0, le=1)
    tuning_queries: int = Field(default=500, ge=1)
    device: Device = "auto"
    seed: int = 0


class IndexReport(Config):
    """What was built, and how well it finds what exact search finds.

    Attributes:
        lists, probes: inverted lists, and how many of them a search for 100 rows reads; 0 for a flat index.
        probe_growth: a search c times as deep reads c ** probe_growth times as many lists.
        recall_at_100: share of the exact top 100 found, as measured with `queries` vectors.
        query_source: `users` when the caller gave query vectors, else `items`.
        bytes_per_item: what is kept of an item, exact vector included.
        warning: one sentence when the target is missed.
        lists_bytes: size of the saved inverted lists; mapped memory past the end of a cut file would kill the process.
    """

    kind: Kind
    metric: Metric
    count: int
    dim: int
    lists: int
    probes: int
    probe_growth: float = 1.0
    recall_at_100: float
    recall_target: float
    queries: int
    query_source: Literal["users", "items"]
    build_seconds: float
    bytes_per_item: float
    device: Literal["cpu", "cuda"]
    warning: str | None = None
    lists_bytes: int = 0

"""The seam of ranking: a scorer takes users and candidates and scores every pair."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, runtime_checkable

from recsys.types import Candidates, Scores, Users


class Stage(StrEnum):
    """Where in the cascade a scorer works."""

    PRE_RANK = "pre_rank"
    RANK = "rank"


@runtime_checkable
class Scorer(Protocol):
    """Scores candidates; a higher score is better within one user."""

    @property
    def name(self) -> str:
        """What requests, reports and bundles call it."""
        ...

    @property
    def stage(self) -> Stage:
        """The stage it serves."""
        ...

    def score(self, users: Users, candidates: Candidates) -> Scores:
        """Scores aligned with `candidates.rows`; the order of the candidates is not changed."""
        ...

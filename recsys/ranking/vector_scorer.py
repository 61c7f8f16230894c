"""Ranking by the retrieval model's own score of a user's and an item's vector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError
from recsys.features.online import OnlineEncoder
from recsys.ranking.scorer import Stage
from recsys.types import Candidates, Floats, Rows, Scores, Users


@runtime_checkable
class VectorSource(Protocol):
    """What has a vector for every user and scores every item by it; a vector channel does."""

    def user_vectors(self, users: Users) -> Floats:
        """(B, d) vectors of users, or (B, K, d) where a user has several interests."""
        ...

    def row_scores(self, rows: Rows, vector: Floats) -> Floats:
        """(M,) scores of catalogue rows for one user's part of what `user_vectors` gives."""
        ...


class VectorScorer:
    """Scorer that gives any candidate the score its vector channel would have given it.

    Args:
        channel: where the vectors come from.
        name: what requests call it.
    """

    def __init__(self, channel: VectorSource, name: str = "vector_scorer") -> None:
        self._channel = channel
        self._name = name

    @classmethod
    def open(
        cls,
        name: str,
        directory: Path,
        options: Mapping[str, Any],
        catalogue: Catalogue,
        encoder: OnlineEncoder,
        channels: Mapping[str, object],
    ) -> VectorScorer:
        """Opens a component of type "vector_scorer"; option `channel` names a vector channel of the bundle.

        Raises:
            BundleError: when there is no such channel or it has no vectors.
        """
        wanted = options.get("channel")
        channel = channels.get(wanted or "")
        if not isinstance(channel, VectorSource):
            known = ", ".join(n for n, c in channels.items() if isinstance(c, VectorSource)) or "none"
            raise BundleError(
                f"{directory}: option channel = {wanted!r} must name a vector channel; there are: {known}"
            )
        return cls(channel, name)

    @property
    def name(self) -> str:
        """What requests, reports and bundles call it."""
        return self._name

    @property
    def stage(self) -> Stage:
        """The stage it serves: pre-ranking."""
        return Stage.PRE_RANK

    def score(self, users: Users, candidates: Candidates) -> Scores:
        """See `Scorer.score`; the scores have the very bits that the channel's answer has."""
        vectors = self._channel.user_vectors(users)
        scores = np.empty(len(candidates.rows), np.float32)
        for b in range(len(candidates)):
            part = slice(candidates.offsets[b], candidates.offsets[b + 1])
            scores[part] = self._channel.row_scores(candidates.rows[part], vectors[b])
        return Scores(scores)

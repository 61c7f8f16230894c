"""Validation of a tree retriever: the target's place in the list that its beam finds, as it serves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from recsys.data.interactions import EvaluationSet
from recsys.features.online import OnlineEncoder
from recsys.index.tree_search import TreeSearch
from recsys.models.tdm import Tdm
from recsys.train.export import node_attention, user_vectors
from recsys.train.ranks import ALONE, Ranks
from recsys.train.validation import list_metrics, only, sample_of

_MOST = 3_000


class TreeValidator:
    """HR@k and NDCG@k of a beam search on an evaluation set, or on a random sample of it.

    A beam costs as little at a million leaves as at a thousand, where brute force would take minutes; and what the
    tree hides from the beam counts as what it is, missed.

    Args:
        targets: the events to predict.
        encoder: the serving encoder.
        user_frame: raw user attributes.
        beam: nodes kept a level.
        seed: of the sample.
        workers: those that validate together, each its share of the targets.
        most: targets in the sample.
    """

    def __init__(
        self,
        targets: EvaluationSet,
        encoder: OnlineEncoder,
        user_frame: pl.DataFrame | None,
        beam: int,
        seed: int = 0,
        workers: Ranks = ALONE,
        most: int = _MOST,
    ) -> None:
        chosen = sample_of(targets, most, seed)
        chosen = only(chosen, np.arange(workers.rank, len(chosen), workers.world))
        self.beam, self.workers = beam, workers
        self.users = chosen.users(0, len(chosen), user_frame)
        self.codes = encoder.encode_users(self.users, trim=True)
        self.target, self.eligible = chosen.target, chosen.eligible

    def __call__(self, model: Tdm, cutoff: int = 10) -> Mapping[str, float]:
        """Metrics of the model, put in evaluation mode by the caller; the same on every worker."""
        return list_metrics(self.ranks(model, cutoff), cutoff, self.workers)

    @torch.no_grad()
    def ranks(self, model: Tdm, k: int) -> NDArray[np.int64]:
        """(M,) rank of each target of this worker among the k rows that are found, ties against it; k + 1 = missed."""
        ranks = np.full(len(self.target), k + 1, np.int64)
        if not len(ranks):
            return ranks
        attention = node_attention(model)
        search = TreeSearch(attention.tree)
        vectors = user_vectors(model.users, self.codes)
        with threadpool_limits(1, "blas"):  # products of a beam are too small to be shared out
            for user, (vector, target) in enumerate(zip(vectors, self.target, strict=True)):
                scorer = attention.user(vector, self.users.history[user])
                found = search.search(scorer, k, self.beam, self.eligible, self.users.excluded[user])
                place = np.flatnonzero(found.rows == target)
                if len(place):
                    ranks[user] = np.count_nonzero(found.scores >= found.scores[place])
        return ranks

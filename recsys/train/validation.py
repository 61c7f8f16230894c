"""Full-catalogue validation while training: the target's rank among all items less the history, ties against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.interactions import EvaluationSet
from recsys.features.definition import HISTORY, HISTORY_AGE
from recsys.features.online import OnlineEncoder
from recsys.models.retriever import Retriever
from recsys.train.ranks import ALONE, Ranks
from recsys.types import RaggedRows

_HISTORIES_AT_ONCE = 64
_USERS_AT_ONCE, _ITEMS_AT_ONCE = 256, 16_384
"""A tile of scores takes 16 MiB."""
_MOST = 20_000
_MOST_SCORES = 10_000_000_000
"""So many products of a user and an item take a core about a minute."""


def list_metrics(ranks: NDArray[np.int64], cutoff: int, workers: Ranks = ALONE) -> Mapping[str, float]:
    """HR and NDCG at a cutoff of targets by their ranks, 1 = first, of all workers together; some must have one."""
    hits = ranks <= cutoff
    gain = np.where(hits, 1.0 / np.log2(ranks + 1.0), 0.0)
    count, hit, gained = workers.sum([len(ranks), hits.sum(), gain.sum()])
    return {f"hr@{cutoff}": hit / count, f"ndcg@{cutoff}": gained / count}


def sample_of(targets: EvaluationSet, most: int, seed: int) -> EvaluationSet:
    """All targets, or `most` of them drawn at random."""
    if len(targets) <= most:
        return targets
    return only(targets, np.sort(np.random.default_rng(seed).choice(len(targets), most, replace=False)))


def only(targets: EvaluationSet, chosen: NDArray[np.int64]) -> EvaluationSet:
    """The targets at some places."""
    return EvaluationSet(
        targets.sequences,
        targets.user[chosen],
        targets.history_end[chosen],
        targets.target[chosen],
        targets.eligible,
    )


class RankingValidator:
    """HR@k and NDCG@k of a retriever on an evaluation set.

    Users are encoded by the serving encoder, once. Above 20,000 targets, or 10^10 scores, a fixed random sample is
    used. Scores are computed tile by tile, and neither they nor the item vectors are ever all in memory.

    Args:
        targets: the events to predict.
        encoder: the serving encoder.
        user_frame: raw user attributes.
        seed: of the sample.
        workers: those that validate together, each its share of the targets.
    """

    def __init__(
        self,
        targets: EvaluationSet,
        encoder: OnlineEncoder,
        user_frame: pl.DataFrame | None,
        seed: int = 0,
        workers: Ranks = ALONE,
    ) -> None:
        self.items = len(encoder.item_index)
        self.workers = workers
        chosen = sample_of(targets, min(_MOST, max(1, _MOST_SCORES // self.items)), seed)
        self.counts = workers.rank < len(chosen)  # who gets no target computes one that does not count
        chosen = only(chosen, np.arange(workers.rank if self.counts else 0, len(chosen), workers.world))
        users = chosen.users(0, len(chosen), user_frame)
        codes = encoder.encode_users(users, trim=True)
        self.codes = {name: torch.from_numpy(values.astype(np.int64)) for name, values in codes.items()}
        self.met: Tensor | None = None
        if HISTORY in self.codes:
            self.met, self.codes[HISTORY] = torch.unique(self.codes[HISTORY], return_inverse=True)
        self.by_length = np.argsort(users.history.lengths, kind="stable")
        self.by_target = np.argsort(chosen.target, kind="stable")
        self.target = torch.from_numpy(chosen.target[self.by_target].astype(np.int64))
        self.absent = _holds(users.excluded, chosen.target)
        self.ineligible: Tensor | None = None
        if targets.eligible is not None:
            self.absent |= ~targets.eligible.allowed[chosen.target]
            self.ineligible = torch.from_numpy(~targets.eligible.allowed)
        self.excluded = _Excluded(users.excluded, self.by_target, self.items)

    @torch.no_grad()
    def __call__(self, model: Retriever, cutoff: int = 10) -> Mapping[str, float]:
        """Metrics of the model, put in evaluation mode by the caller; the same on every worker."""
        return list_metrics(self.ranks(model)[: None if self.counts else 0], cutoff, self.workers)

    @torch.no_grad()
    def ranks(self, model: Retriever) -> NDArray[np.int64]:
        """(M,) rank of each target, 1 = first, in the order of the evaluation set; N + 1 for one that is excluded.

        Of one worker among several, those of its share.
        """
        users = torch.split(self._user_vectors(model), _USERS_AT_ONCE)
        products = _Products(users[0])
        wanted = self._target_scores(model, users, products)
        better = [torch.zeros_like(scores, dtype=torch.long) for scores in wanted]
        for tile, items in enumerate(model.items.catalogue_blocks(_ITEMS_AT_ONCE)):
            first = tile * _ITEMS_AT_ONCE
            hidden = None if self.ineligible is None else self.ineligible[first : first + len(items)].to(items.device)
            for block, vectors in enumerate(users):
                scores = products.scores(vectors, items)
                scores[self.excluded.of(block, tile)] = -torch.inf
                if hidden is not None:
                    scores[:, hidden] = -torch.inf
                better[block] += products.at_least(scores, wanted[block])
        ranks = np.empty(len(self.target), np.int64)
        ranks[self.by_target] = torch.cat(better)[:, 0].cpu().numpy()
        return np.where(self.absent, self.items + 1, ranks)

    def _target_scores(self, model: Retriever, users: Sequence[Tensor], products: _Products) -> list[Tensor]:
        """(…, 1) scores of the users' targets, block by block.

        Out of the very products in which they are then compared: another one might round otherwise, and an item
        as good as the target, or the target itself, would count by luck.
        """
        wanted = [torch.zeros_like(vectors[:, 0, :1]) for vectors in users]
        targets = torch.split(self.target, _USERS_AT_ONCE)
        for tile, items in enumerate(model.items.catalogue_blocks(_ITEMS_AT_ONCE)):
            for block, target in enumerate(targets):
                column = target - tile * _ITEMS_AT_ONCE
                here = ((column >= 0) & (column < len(items))).nonzero()[:, 0]
                if len(here):
                    scores = products.scores(users[block], items)
                    wanted[block][here, 0] = scores[here, column[here]]
        return wanted

    def _user_vectors(self, model: Retriever) -> Tensor:
        """(M, K, d_out) user vectors, K = 1 where a user has one, in the order of their targets' rows."""
        device = model.items.index.device
        reads = self.met is not None and model.reads_history
        table = model.items.history_states(self.met.to(device)) if reads and self.met is not None else None
        vectors: Tensor | None = None
        for start in range(0, len(self.by_length), _HISTORIES_AT_ONCE):
            chosen = torch.from_numpy(self.by_length[start : start + _HISTORIES_AT_ONCE])
            codes = {name: values[chosen].to(device) for name, values in self.codes.items()}
            part = model.user_vectors(_newest_states(model, table, codes))
            part = part.view(len(part), -1, part.shape[-1])
            vectors = part.new_empty((len(self.by_length), *part.shape[1:])) if vectors is None else vectors
            vectors[chosen.to(device)] = part
        assert vectors is not None
        return vectors[torch.from_numpy(self.by_target).to(device)]


class _Products:
    """Scores of a block of users and a tile of items, in memory that is used over and over.

    New memory for each would take as long as the product itself.
    """

    def __init__(self, like: Tensor) -> None:
        self._scores, self._hits, self._products = like.new_empty((3, _USERS_AT_ONCE * _ITEMS_AT_ONCE))

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """(U, K, d) users and (I, d) items → (U, I), the largest of K products; valid until the next call."""
        shape = (len(users), len(items))
        scores: Tensor = self._scores[: shape[0] * shape[1]].view(shape)
        first, *others = users.unbind(dim=1)
        torch.mm(first, items.T, out=scores)
        products = self._products[: scores.numel()].view(shape)
        for interest in others:
            torch.maximum(scores, torch.mm(interest, items.T, out=products), out=scores)
        return scores

    def at_least(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """(U, 1) how many of the scores (U, I) are as good as what is wanted (U, 1).

        Counted as floats, exact up to 2^24: summing truth values takes ten times as long.
        """
        hits = torch.ge(scores, wanted, out=self._hits[: scores.numel()].view(scores.shape))
        return hits.sum(dim=1, keepdim=True).long()


class _Excluded:
    """Pairs of a user and a row that must not be recommended, by the tile of scores that they fall into.

    Args:
        excluded: rows by user.
        order: the users in the order of the tiles.
        items: N.
    """

    def __init__(self, excluded: RaggedRows, order: NDArray[np.int64], items: int) -> None:
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        user, row = np.repeat(place, excluded.lengths), excluded.values.astype(np.int64)
        self._across = -(-items // _ITEMS_AT_ONCE)
        tile = user // _USERS_AT_ONCE * self._across + row // _ITEMS_AT_ONCE
        by_tile = np.argsort(tile, kind="stable")
        self._user = torch.from_numpy(user[by_tile] % _USERS_AT_ONCE)
        self._row = torch.from_numpy(row[by_tile] % _ITEMS_AT_ONCE)
        tiles = -(-len(order) // _USERS_AT_ONCE) * self._across
        self._start = np.searchsorted(tile[by_tile], np.arange(tiles + 1))

    def of(self, block: int, tile: int) -> tuple[Tensor, Tensor]:
        """(row, column) of the scores to leave out in the product of a block of users and a tile of items."""
        at = block * self._across + tile
        pairs = slice(self._start[at], self._start[at + 1])
        return self._user[pairs], self._row[pairs]


def _holds(lists: RaggedRows, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
    """(M,) whether list m holds row m."""
    held = lists.values == np.repeat(rows, lists.lengths)
    return np.bincount(np.repeat(np.arange(len(rows)), lists.lengths)[held], minlength=len(rows)) > 0


def _newest_states(model: Retriever, table: Tensor | None, codes: dict[str, Tensor]) -> Tensor:
    """(B, [K,] d) user states after the whole history, by the fast path that training takes.

    The serving encoder pads on the left; here each history is shifted to the left end, and its last state taken.
    """
    history, age = codes.pop(HISTORY, None), codes.pop(HISTORY_AGE, None)
    if history is None or age is None or table is None:
        return model.newest_user_states(None, None, codes)
    length = (age > 0).sum(dim=1).clamp(max=model.shape.history_length)
    longest = max(int(length.max()), 1)  # one place of padding where nobody has a history
    place = torch.arange(longest, device=history.device) + (history.shape[1] - length)[:, None]
    shifted = history.gather(1, place.clamp(max=history.shape[1] - 1))
    return model.states_after(table[shifted], length, codes)

"""Full-catalogue validation while training: the target's rank among all items less the history, ties against it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Generic, TypeVar

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
USERS_AT_ONCE: Final = 256
ITEMS_AT_ONCE: Final = 16_384
"""A tile of scores takes 16 MiB."""
_MOST = 20_000
_MOST_SCORES = 10_000_000_000
"""So many products of a user and an item take a core about a minute."""

UsersT = TypeVar("UsersT")
"""What a scorer knows of a block of users."""


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
        most: targets in the sample.
    """

    def __init__(
        self,
        targets: EvaluationSet,
        encoder: OnlineEncoder,
        user_frame: pl.DataFrame | None,
        seed: int = 0,
        workers: Ranks = ALONE,
        most: int = _MOST,
    ) -> None:
        self.items = len(encoder.item_index)
        self.workers = workers
        chosen = _sample(targets, min(most, max(1, _MOST_SCORES // self.items)), seed)
        self.counts = workers.rank < len(chosen)  # who gets no target computes one that does not count
        chosen = _only(chosen, np.arange(workers.rank if self.counts else 0, len(chosen), workers.world))
        users = chosen.users(0, len(chosen), user_frame)
        codes = encoder.encode_users(users, trim=True)
        self.codes = {name: torch.from_numpy(values.astype(np.int64)) for name, values in codes.items()}
        self.met: Tensor | None = None
        if HISTORY in self.codes:
            self.met, self.codes[HISTORY] = torch.unique(self.codes[HISTORY], return_inverse=True)
        self.history = users.history
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
        return self.metrics(self.ranks(model), cutoff)

    def metrics(self, ranks: NDArray[np.int64], cutoff: int = 10) -> Mapping[str, float]:
        """What the targets' ranks (M,) amount to, over all workers."""
        counted = ranks[: None if self.counts else 0]
        hits = counted <= cutoff
        gain = np.where(hits, 1.0 / np.log2(counted + 1.0), 0.0)
        count, hit, gained = self.workers.sum([len(counted), hits.sum(), gain.sum()])
        return {f"hr@{cutoff}": hit / count, f"ndcg@{cutoff}": gained / count}

    @torch.no_grad()
    def ranks(self, model: Retriever) -> NDArray[np.int64]:
        """(M,) rank of each target, 1 = first, in the order of the evaluation set; N + 1 for one that is excluded.

        Of one worker among several, those of its share.
        """
        users = torch.split(self.user_vectors(model), USERS_AT_ONCE)
        return self.ranks_by(_Products(users[0]), users, lambda: model.items.catalogue_blocks(ITEMS_AT_ONCE))

    def ranks_by(
        self, scorer: TileScores[UsersT], users: Sequence[UsersT], tiles: Callable[[], Iterator[Tensor]]
    ) -> NDArray[np.int64]:
        """As `ranks`, by any scores.

        Args:
            scorer: what users make of items.
            users: the targets' users, 256 at a time, in the order of `by_target`.
            tiles: the vectors of all items, 16,384 at a time.
        """
        wanted = self._target_scores(scorer, users, tiles)
        better = [torch.zeros_like(scores, dtype=torch.long) for scores in wanted]
        for tile, items in enumerate(tiles()):
            first = tile * ITEMS_AT_ONCE
            hidden = None if self.ineligible is None else self.ineligible[first : first + len(items)].to(items.device)
            for block, asked in enumerate(users):
                scores = scorer.scores(asked, items)
                scores[self.excluded.of(block, tile)] = -torch.inf
                if hidden is not None:
                    scores[:, hidden] = -torch.inf
                better[block] += scorer.at_least(scores, wanted[block])
        ranks = np.empty(len(self.target), np.int64)
        ranks[self.by_target] = torch.cat(better)[:, 0].cpu().numpy()
        return np.where(self.absent, self.items + 1, ranks)

    def _target_scores(
        self, scorer: TileScores[UsersT], users: Sequence[UsersT], tiles: Callable[[], Iterator[Tensor]]
    ) -> list[Tensor]:
        """(…, 1) scores of the users' targets, block by block.

        Out of the very products in which they are then compared: another one might round otherwise, and an item
        as good as the target, or the target itself, would count by luck.
        """
        targets = torch.split(self.target, USERS_AT_ONCE)
        wanted: list[Tensor] = []
        for tile, items in enumerate(tiles()):
            if not wanted:
                wanted = [items.new_zeros(len(target), 1) for target in targets]
            for block, target in enumerate(targets):
                column = target - tile * ITEMS_AT_ONCE
                here = ((column >= 0) & (column < len(items))).nonzero()[:, 0]
                if len(here):
                    scores = scorer.scores(users[block], items)
                    wanted[block][here, 0] = scores[here, column[here]]
        return wanted

    def user_vectors(self, model: Retriever) -> Tensor:
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


class TileScores(ABC, Generic[UsersT]):
    """Scores of a block of users and a tile of items, in memory that is used over and over.

    New memory for each would take as long as the product itself.

    Args:
        like: of which type and where.
    """

    def __init__(self, like: Tensor) -> None:
        self._scores, self._hits = like.new_empty((2, USERS_AT_ONCE * ITEMS_AT_ONCE))

    @abstractmethod
    def scores(self, users: UsersT, items: Tensor) -> Tensor:
        """Users and items (I, d_out) → (U, I) in `room`; valid until the next call."""

    def room(self, users: int, items: int) -> Tensor:
        """(users, items) to write scores to."""
        room: Tensor = self._scores[: users * items].view(users, items)
        return room

    def at_least(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """(U, 1) how many of the scores (U, I) are as good as what is wanted (U, 1).

        Counted as floats, exact up to 2^24: summing truth values takes ten times as long.
        """
        hits = torch.ge(scores, wanted, out=self._hits[: scores.numel()].view(scores.shape))
        return hits.sum(dim=1, keepdim=True).long()


class _Products(TileScores[Tensor]):
    """The largest of a user's K products."""

    def __init__(self, like: Tensor) -> None:
        super().__init__(like)
        self._products = torch.empty_like(self._scores)

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """See `TileScores.scores`; users (U, K, d_out)."""
        scores = self.room(len(users), len(items))
        first, *others = users.unbind(dim=1)
        torch.mm(first, items.T, out=scores)
        products = self._products[: scores.numel()].view(scores.shape)
        for interest in others:
            torch.maximum(scores, torch.mm(interest, items.T, out=products), out=scores)
        return scores


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
        self._across = -(-items // ITEMS_AT_ONCE)
        tile = user // USERS_AT_ONCE * self._across + row // ITEMS_AT_ONCE
        by_tile = np.argsort(tile, kind="stable")
        self._user = torch.from_numpy(user[by_tile] % USERS_AT_ONCE)
        self._row = torch.from_numpy(row[by_tile] % ITEMS_AT_ONCE)
        tiles = -(-len(order) // USERS_AT_ONCE) * self._across
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


def _sample(targets: EvaluationSet, most: int, seed: int) -> EvaluationSet:
    if len(targets) <= most:
        return targets
    return _only(targets, np.sort(np.random.default_rng(seed).choice(len(targets), most, replace=False)))


def _only(targets: EvaluationSet, chosen: NDArray[np.int64]) -> EvaluationSet:
    return EvaluationSet(
        targets.sequences,
        targets.user[chosen],
        targets.history_end[chosen],
        targets.target[chosen],
        targets.eligible,
    )

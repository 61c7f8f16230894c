"""Full-catalogue validation while training: the target's rank among all items less the history, ties against it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.interactions import EvaluationSet
from recsys.features.definition import HISTORY, HISTORY_AGE
from recsys.features.online import OnlineEncoder
from recsys.models.two_tower import TwoTower

_BLOCK = 64
_MOST = 20_000


class RankingValidator:
    """HR@k and NDCG@k of a two-tower on an evaluation set.

    Users are encoded by the serving encoder, once. Above 20,000 targets a fixed random sample is used.

    Args:
        targets: the events to predict.
        encoder: the serving encoder.
        user_frame: raw user attributes.
        seed: of the sample.
    """

    def __init__(
        self, targets: EvaluationSet, encoder: OnlineEncoder, user_frame: pl.DataFrame | None, seed: int = 0
    ) -> None:
        chosen = _sample(targets, seed)
        users = chosen.users(0, len(chosen), user_frame)
        codes = encoder.encode_users(users, trim=True)
        self.target = torch.from_numpy(chosen.target.astype(np.int64))
        self.excluded_rows = torch.from_numpy(users.excluded.values.astype(np.int64))
        self.excluded_offsets = users.excluded.offsets
        self.eligible = None if targets.eligible is None else torch.from_numpy(targets.eligible.allowed)
        self.codes = {name: torch.from_numpy(values.astype(np.int64)) for name, values in codes.items()}
        lengths = users.history.lengths
        self.order = np.argsort(lengths, kind="stable")

    @torch.no_grad()
    def __call__(self, model: TwoTower, cutoff: int = 10) -> Mapping[str, float]:
        """Metrics of the model, put in evaluation mode by the caller."""
        ranks = self.ranks(model)
        hits = ranks <= cutoff
        gain = np.where(hits, 1.0 / np.log2(ranks + 1.0), 0.0)
        return {f"hr@{cutoff}": float(hits.mean()), f"ndcg@{cutoff}": float(gain.mean())}

    @torch.no_grad()
    def ranks(self, model: TwoTower) -> NDArray[np.int64]:
        """(M,) rank of each target, 1 = first, in the order of the evaluation set."""
        items = model.catalogue_vectors()
        table = model.history_table()
        ranks = np.empty(len(self.target), np.int64)
        for start in range(0, len(self.order), _BLOCK):
            chosen = self.order[start : start + _BLOCK]
            ranks[chosen] = self._block_ranks(model, torch.from_numpy(chosen), items, table)
        return ranks

    def _block_ranks(self, model: TwoTower, chosen: Tensor, items: Tensor, table: Tensor) -> NDArray[np.int64]:
        device = items.device
        codes = {name: values[chosen].to(device) for name, values in self.codes.items()}
        scores = model.user_vectors(_newest_states(model, table, codes)) @ items.T
        target = self.target[chosen].to(device)
        wanted = scores.gather(1, target[:, None])
        for b, m in enumerate(chosen.tolist()):
            low, high = self.excluded_offsets[m], self.excluded_offsets[m + 1]
            scores[b, self.excluded_rows[low:high].to(device)] = -torch.inf
        if self.eligible is not None:
            scores[:, ~self.eligible.to(device)] = -torch.inf
        # The target itself is one of those at least as good; an excluded target could not be recommended at all.
        better = (scores >= wanted).sum(dim=1)
        present = scores.gather(1, target[:, None])[:, 0] > -torch.inf
        worst = torch.full_like(better, scores.shape[1] + 1)
        return torch.where(present, better, worst).cpu().numpy()


def _newest_states(model: TwoTower, table: Tensor, codes: dict[str, Tensor]) -> Tensor:
    """(B, d) user states after the whole history, by the fast path that training takes.

    The serving encoder pads on the left; here each history is shifted to the left end, and its last state taken.
    """
    history, age = codes.pop(HISTORY, None), codes.pop(HISTORY_AGE, None)
    if history is None or age is None or model.history is None:
        return model.newest_user_state(None, None, codes)
    length = (age > 0).sum(dim=1).clamp(max=model.shape.history_length)
    longest = int(length.max())
    place = torch.arange(longest, device=history.device) + (history.shape[1] - length)[:, None]
    shifted = history.gather(1, place.clamp(max=history.shape[1] - 1))
    states = model.user_states(table[shifted], codes)
    return states[torch.arange(len(length), device=history.device), length]


def _sample(targets: EvaluationSet, seed: int) -> EvaluationSet:
    if len(targets) <= _MOST:
        return targets
    chosen = np.sort(np.random.default_rng(seed).choice(len(targets), _MOST, replace=False))
    return EvaluationSet(
        targets.sequences,
        targets.user[chosen],
        targets.history_end[chosen],
        targets.target[chosen],
        targets.eligible,
    )

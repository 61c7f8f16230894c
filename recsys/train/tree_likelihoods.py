"""How well an item would stand below a node, by the scores that its training prefixes give the way there (JTM).

Zhu et al. 2019 (arXiv 1902.07565), section 3.2: the log-likelihood of an item's samples under the ancestors that a
place would give it. A level's softmax is over the same nodes wherever the item goes, so that its sum is left out; and
at the leaves' level so is the score, as a leaf has the vector of the item that it holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recsys.data.interactions import Interactions
from recsys.index.item_tree import Nodes
from recsys.models.sequence_batch import SequenceBatch
from recsys.models.tdm import Tdm
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.train.objective import users_at_targets
from recsys.types import Floats, Offsets, Rows

_WINDOWS_AT_ONCE: Final = 64
_LOGITS_AT_ONCE: Final = 1 << 20
_USERS_HELD: Final = 1 << 31
"""Bytes of users' vectors."""


class PrefixLikelihoods:
    """The callback of `recsys.index.tree_assignment.relearned`, of a model as it is now.

    Of each item at most `prefixes` samples are looked at, drawn at random, and stand for all that it has; fewer where
    the users' vectors before all of them took more than 2 GB (8 an item at a million items and 64 dimensions). Memory
    besides: the vectors of all nodes, and some numbers an event.

    Args:
        model: in evaluation mode; its present tree says which nodes behaviours enter as.
        sequences: what it was trained on.
        user_codes: encoded attributes aligned with `sequences.user_ids`.
        prefixes: samples an item, at most.
        seed: of the draw.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Tdm,
        sequences: Interactions,
        user_codes: Mapping[str, NDArray[np.integer[Any]]],
        prefixes: int = 32,
        seed: int = 0,
    ) -> None:
        self.model, self.sequences = model, sequences
        counts = np.bincount(sequences.rows, minlength=len(model.tree.leaves))
        most = _affordable(counts, prefixes, _USERS_HELD // (4 * model.inner.embedding_dim))
        self._events, self._bounds = _drawn(sequences.rows, counts, most, np.random.default_rng(seed))
        self._stands_for = counts / np.maximum(np.diff(self._bounds), 1)
        self._place = np.arange(sequences.size) - sequences.offsets[sequences.user_of()]
        self._users = self._user_vectors(user_codes)
        self._nodes = torch.cat(list(model.node_blocks()))

    @torch.no_grad()
    def __call__(self, rows: Rows, nodes: Nodes, sizes: Offsets, above: int, level: int) -> Floats:
        """(M, C) log-likelihoods; see `recsys.index.tree_assignment.Likelihoods`."""
        found = torch.zeros(len(rows), nodes.shape[1])
        ends = np.cumsum(sizes)
        for start, stop, mine in zip(ends - sizes, ends, torch.from_numpy(nodes.astype(np.int64)), strict=True):
            for at in range(above + 1, min(level, self.model.tree.depth - 1) + 1):
                ways, way = torch.unique(self.model.tree.ancestors(mine, at), return_inverse=True)
                for item, scores in self._samples(rows[start:stop], ways.to(self.model.device), at):
                    found[start:stop].index_add_(0, item, scores.cpu()[:, way])
        found *= torch.from_numpy(self._stands_for[rows, None].astype(np.float32))
        return found.numpy()

    def _samples(self, rows: Rows, nodes: Tensor, level: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Some at a time of the drawn prefixes of items: (n,) whose, as a place in rows, and (n, c) scores of nodes."""
        counts = torch.from_numpy(np.diff(self._bounds)[rows])
        chosen = torch.from_numpy(_ranges(self._bounds[rows], self._bounds[rows + 1]))
        item = torch.arange(len(rows)).repeat_interleave(counts)
        at_once = max(1, _LOGITS_AT_ONCE // (len(nodes) * self.model.attention.attended))
        for part, of in zip(torch.split(chosen, at_once), torch.split(item, at_once), strict=True):
            yield of, self._scores(part, nodes, level)

    def _scores(self, chosen: Tensor, nodes: Tensor, level: int) -> Tensor:
        """(n, c) scores of nodes of a level after drawn prefixes (n,); a leaf's is that of the prefix's own item."""
        tree, events = self.model.tree, self._events[chosen.numpy()]
        rows, age = self._newest(events)
        above = tree.ancestors(tree.of_rows(rows), level)
        behaviours = self.model.bare(F.embedding(above.clamp(min=0), self._nodes))
        users, age = self._users[chosen], age.masked_fill(above < 0, 0)
        scores = self.model.newest_scores(users, behaviours, age, self._nodes[nodes])
        leaves = nodes >= tree.inner  # those that end a level before the last
        if leaves.any():
            own = tree.of_rows(torch.from_numpy(self.sequences.rows[events].astype(np.int64)).to(nodes.device))
            scores[:, leaves] = self.model.newest_scores(users, behaviours, age, self._nodes[own][:, None])
        return self.model.users.logit_scale() * scores

    def _newest(self, events: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(n, L) rows of the newest behaviours before events (n,), and their ages; 0 = none."""
        ages = np.arange(1, self.model.attention.attended + 1)
        there = ages <= self._place[events, None]
        rows = self.sequences.rows[np.where(there, events[:, None] - ages, 0)]
        device = self.model.device
        return torch.from_numpy(rows.astype(np.int64)).to(device), torch.from_numpy(np.where(there, ages, 0)).to(device)

    def _user_vectors(self, user_codes: Mapping[str, NDArray[np.integer[Any]]]) -> Tensor:
        """(n, d_out) user vectors before the drawn events."""
        model = self.model
        drawn = np.full(self.sequences.size, -1, np.int64)
        drawn[self._events] = np.arange(len(self._events))
        vectors = model.inner.weight.new_empty(len(self._events), model.inner.embedding_dim)
        for batch, chosen in self._batches(drawn, user_codes):
            items = model.batch_items(batch.history)
            states = F.embedding(items.places(batch.history), items.states)
            vectors[chosen] = users_at_targets(model.users, batch, states) / model.users.logit_scale()
        return vectors

    def _batches(
        self, drawn: NDArray[np.int64], user_codes: Mapping[str, NDArray[np.integer[Any]]]
    ) -> Iterator[tuple[SequenceBatch, Tensor]]:
        """Windows of the sequences whose targets are drawn events, and which, by row of the targets.

        Windows overlap by half, and an event is a target of the first that holds it, so that it has at least half a
        window of history before it, if there is as much.
        """
        length = self.model.users.shape.history_length
        source = SequenceSource(self.sequences, user_codes, len(self.model.tree.leaves), SequenceSampling(1, length))
        step = max(1, length // 2)
        window = np.maximum(0, -(-(self._place - length) // step))
        user = self.sequences.user_of()
        asked = np.unique(np.stack([user, window], axis=1)[drawn >= 0], axis=0)
        asked = asked[np.argsort(self.sequences.lengths[asked[:, 0]] - asked[:, 1] * step, kind="stable")]
        for part in np.array_split(asked, -(-len(asked) // _WINDOWS_AT_ONCE)):
            users, starts = part[:, 0], part[:, 1] * step
            batch = source.batch(users, starts, np.random.default_rng(0))
            events = (self.sequences.offsets[users] + starts)[:, None] + np.arange(batch.targets.shape[1])
            events = np.minimum(events, len(drawn) - 1)
            mine = (batch.targets.numpy() >= 0) & (drawn[events] >= 0) & (window[events] == part[:, 1, None])
            targets = batch.targets.masked_fill(torch.from_numpy(~mine), -1)
            held = SequenceBatch(batch.history, targets, batch.user, samples=int(mine.sum())).to(self.model.device)
            yield held, torch.from_numpy(drawn[events][mine])


def _affordable(counts: NDArray[np.integer[Any]], most: int, held: int) -> int:
    """As many samples an item as asked for, or as leave `held` altogether, but one at least."""
    return max(1, bisect_right(range(1, most + 1), held, key=lambda each: int(np.minimum(counts, each).sum())))


def _drawn(
    rows: Rows, counts: NDArray[np.integer[Any]], most: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Up to `most` of the events of each row, row after row, and the bounds between rows (N + 1,)."""
    shuffled = rng.permutation(len(rows))
    by_row = shuffled[np.argsort(rows[shuffled], kind="stable")]
    first = np.cumsum(counts) - counts
    kept = np.minimum(counts, most)
    return by_row[_ranges(first, first + kept)], np.concatenate([[0], np.cumsum(kept)])


def _ranges(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
    """All numbers from each start to before its stop, one range after the other."""
    lengths = stops - starts
    behind = np.cumsum(lengths)
    numbers: NDArray[np.int64] = np.arange(behind[-1] if len(behind) else 0)
    numbers += np.repeat(starts - behind + lengths, lengths)
    return numbers

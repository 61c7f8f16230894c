"""What a tree retriever is trained for: telling the ancestor of each next item from the other nodes of its level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.losses.level_loss import LevelSoftmax
from recsys.models.prefix_scores import Prefixes, level_loss
from recsys.models.sequence_batch import SequenceBatch
from recsys.models.tdm import BatchItems, Tdm
from recsys.train.objective import users_at_targets
from recsys.train.tree_levels import DrawnLevel, first_had, sampled_level, whole_level


@dataclass(frozen=True, eq=False)
class TreeObjective:
    """A batch of sequences to its mean loss over targets and levels (TDM, arXiv 1801.02294, §3.2).

    At each level a softmax over nodes: all of them where the level is at most `in_batch + uniform` wide, a sample that
    estimates them without bias beyond (see `sampled_level`). Targets that are not in the tree are left out.

    Attributes:
        model: what is trained.
        in_batch: targets whose ancestors are columns together; a batch of more is taken in groups of sequences.
        uniform: columns drawn evenly besides.
        leaf_weight: weight of the leaves' level, where any other has 1.
        exclude_history: whether leaves that the user had are no columns, as in answers that exclude them.
        shown: (C,) catalogue rows whose leaves targets are told from, all targets among them; None = all. See
            `recsys.train.objective.NextItemObjective`. A node above others alone is told from like any.
    """

    model: Tdm
    in_batch: int = 512
    uniform: int = 256
    leaf_weight: float = 1.0
    exclude_history: bool = False
    shown: Tensor | None = None

    def __call__(self, batch: SequenceBatch) -> Tensor:
        """The mean loss, a scalar."""
        model = self.model
        batch, targets = in_tree(model, batch.to(model.device))
        history = model.tree.of_rows(batch.history)
        groups = [self._group(*part) for part in _groups(batch, targets, history, self.in_batch, model)]
        items = items_of(model, batch, [drawn.nodes for group in groups for drawn in group.levels.values()])
        users = users_at_targets(model.users, batch, F.embedding(items.places(batch.history), items.states))
        factors = model.attention.prefix_factors(history.shape[1])
        total = users.new_zeros(())
        for group, mine in zip(groups, torch.split(users, [len(group.prefixes) for group in groups]), strict=True):
            for level, drawn in group.levels.items():
                table = model.table(drawn.nodes, items).scaled(model.users.logit_scale())
                slope = self._slope(drawn, group.prefixes, leaves=level == model.tree.depth)
                cap = model.attention.cap
                loss = level_loss(mine, table, factors, group.prefixes, drawn.asked, cap, slope)
                total = total + loss * self._weight(level)
        return total / (max(1, len(targets)) * sum(map(self._weight, self._levels())))

    def _levels(self) -> range:
        return range(1, self.model.tree.depth + 1)

    def _group(self, prefixes: Prefixes, targets: Tensor, history: Tensor) -> _Group:
        return _Group(prefixes, {level: self._drawn(level, targets, history) for level in self._levels()})

    def _drawn(self, level: int, targets: Tensor, history: Tensor) -> DrawnLevel:
        tree, live = self.model.tree, self._live(level)
        if len(live) <= self.in_batch + self.uniform:
            return whole_level(tree, level, targets, history, live)
        return sampled_level(tree, level, targets, history, self.uniform, live)

    def _live(self, level: int) -> Tensor:
        """The nodes of a level that targets are told from."""
        tree = self.model.tree
        nodes = tree.at_level(level)
        if self.shown is None or level < tree.depth - 1:  # where there are no leaves
            return nodes
        rows = tree.rows[(nodes - tree.inner).clamp(min=0)]
        return nodes[(nodes < tree.inner) | self._is_shown[rows]]

    @cached_property
    def _is_shown(self) -> Tensor:
        """(N,) by row."""
        found = torch.zeros_like(self.model.tree.leaves, dtype=torch.bool)
        return found if self.shown is None else found.index_fill_(0, self.shown, True)

    def _slope(self, drawn: DrawnLevel, prefixes: Prefixes, *, leaves: bool) -> LevelSoftmax:
        had = first_had(drawn.nodes, drawn.asked) if leaves and self.exclude_history else None
        return LevelSoftmax(prefixes.bounds, drawn.positive, drawn.log_weight, had, prefixes.length)

    def _weight(self, level: int) -> float:
        return self.leaf_weight if level == self.model.tree.depth else 1.0


@dataclass(frozen=True, eq=False)
class _Group:
    """Sequences that are told from the same nodes, and these by level."""

    prefixes: Prefixes
    levels: dict[int, DrawnLevel]


def _groups(
    batch: SequenceBatch, targets: Tensor, history: Tensor, most: int, model: Tdm
) -> Iterator[tuple[Prefixes, Tensor, Tensor]]:
    """Sequences next to each other with at most `most` targets together, or one: prefixes, targets and histories."""
    asked = batch.targets >= 0
    start = first = count = 0
    for stop, more in enumerate(asked.sum(dim=1).tolist()):
        if count and count + more > most:
            yield Prefixes.of(asked[start:stop], model.attention.attended), targets[first:][:count], history[start:stop]
            start, first, count = stop, first + count, 0
        count += more
    yield Prefixes.of(asked[start:], model.attention.attended), targets[first:], history[start:]


def in_tree(model: Tdm, batch: SequenceBatch) -> tuple[SequenceBatch, Tensor]:
    """The batch without targets that are not in the tree, and the leaves of the others (R,)."""
    leaves = model.tree.of_rows(batch.targets.clamp(min=0)).masked_fill_(batch.targets < 0, -1)
    return replace(batch, targets=batch.targets.masked_fill(leaves < 0, -1)), leaves[leaves >= 0]


def items_of(model: Tdm, batch: SequenceBatch, nodes: list[Tensor]) -> BatchItems:
    """The items of a batch's histories and of the leaves among nodes."""
    first = model.tree.inner
    leaves = torch.cat([level[level >= first] for level in nodes])
    return model.batch_items(torch.cat([batch.history.flatten(), model.tree.rows[leaves - first]]))

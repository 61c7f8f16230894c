"""Which nodes of a tree's levels a batch of sequences is told from: all of a narrow level, a sample of a wide one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from recsys.models.prefix_scores import LevelNodes, Prefixes
from recsys.models.tree_nodes import TreeNodes

_DENSE: Final = 8
"""A level this many times as wide as a sample is drawn from at random, rather than permuted."""


@dataclass(frozen=True, eq=False)
class DrawnLevel:
    """Nodes of one level.

    Attributes:
        nodes: (Q,) all that the batch meets, ascending.
        asked: columns of each sequence and ancestors of its behaviours, as places in `nodes`.
        positive: (R,) the ancestor of each row's target, as a column.
        log_weight: (M,) logarithm of how many nodes a column stands for; None = each for itself.
    """

    nodes: Tensor
    asked: LevelNodes
    positive: Tensor
    log_weight: Tensor | None = None


def whole_level(
    tree: TreeNodes, level: int, targets: Tensor, history: Tensor, live: Tensor | None = None
) -> DrawnLevel:
    """All nodes of a level that have an item below are columns of every sequence.

    Args:
        tree: whose.
        level: which.
        targets: (R,) leaves of the targets.
        history: (B, L) leaves of the behaviours, -1 = none.
        live: only these of them, ascending, the targets' ancestors included; None = all.
    """
    columns = nodes = tree.at_level(level)
    if live is not None and len(live) < len(nodes):
        columns, nodes = live, _met(live, tree.ancestors(history, level))
    asked = LevelNodes(
        [_places(nodes, columns)] * len(history), _places(nodes, tree.ancestors(history, level)), shared=True
    )
    return DrawnLevel(nodes, asked, _places(columns, tree.ancestors(targets, level)))


def sampled_level(
    tree: TreeNodes, level: int, targets: Tensor, history: Tensor, uniform: int, live: Tensor | None = None
) -> DrawnLevel:
    """A sample of a level by strata, whose weighted sum over columns has the expectation of that over the level.

    Every sequence is told from the ancestors of all targets, each counted once, as in the whole level; and from
    `uniform` nodes drawn evenly without putting back, which stand for all that are no target's ancestors. So each
    row's positive is a column, once, whatever was drawn; no other column is an ancestor of its target; and what scores
    high (what the same user chose, what is popular) is mostly counted exactly.

    Args:
        tree: whose.
        level: which.
        targets: (R,) leaves of the targets.
        history: (B, L) leaves of the behaviours, -1 = none.
        uniform: nodes drawn evenly, at most.
        live: as in the whole level.
    """
    live = tree.at_level(level) if live is None else live
    own, positive = torch.unique(tree.ancestors(targets, level), return_inverse=True)
    drawn = live[_drawn(len(live), uniform, live.device)]
    drawn = drawn[~torch.isin(drawn, own)]
    stands_for = (len(live) - len(own)) / max(1, len(drawn))
    log_weight = torch.cat([torch.zeros(len(own)), torch.full((len(drawn),), math.log(max(1.0, stands_for)))])
    behaviours = tree.ancestors(history, level)
    columns = torch.cat([own, drawn])
    nodes = _met(columns, behaviours)
    asked = LevelNodes([_places(nodes, columns)] * len(history), _places(nodes, behaviours), shared=True)
    return DrawnLevel(nodes, asked, positive, log_weight.to(nodes.device))


@dataclass(frozen=True, eq=False)
class AskedLevel:
    """Nodes of one level that each prefix asks for itself.

    Attributes:
        nodes: (Q,) all that the batch meets, ascending.
        asked: columns of each sequence and ancestors of its behaviours, as places in `nodes`.
        places: (R, C) which of its sequence's columns each row asked for, their number where it asked for none.
    """

    nodes: Tensor
    asked: LevelNodes
    places: Tensor


def asked_level(tree: TreeNodes, level: int, wanted: Tensor, history: Tensor, prefixes: Prefixes) -> AskedLevel:
    """The columns of a sequence are the nodes that its prefixes ask for.

    Args:
        tree: whose.
        level: which.
        wanted: (R, C) nodes, -1 = none.
        history: (B, L) leaves of the behaviours, -1 = none.
        prefixes: who asks.
    """
    there = wanted >= 0
    keys = _keys(tree, prefixes.sequence[:, None], wanted)
    columns, place = torch.unique(keys[there], return_inverse=True)
    counts = torch.bincount(columns // (2 * tree.slots), minlength=len(history))
    starts = counts.cumsum(0) - counts
    places = counts[prefixes.sequence][:, None].repeat(1, wanted.shape[1])
    places[there] = place - starts[prefixes.sequence][:, None].expand_as(wanted)[there]
    column_nodes, behaviours = columns % (2 * tree.slots), tree.ancestors(history, level)
    nodes = _met(column_nodes, behaviours)
    by_sequence = torch.split(_places(nodes, column_nodes), counts.tolist())
    return AskedLevel(nodes, LevelNodes(by_sequence, _places(nodes, behaviours)), places)


def first_had(nodes: Tensor, asked: LevelNodes) -> list[Tensor]:
    """By sequence, (M_b,) the first of its behaviours whose ancestor a column is; their number where none is.

    Args:
        nodes: (Q,) of the level.
        asked: columns and behaviours, as places in `nodes`.
    """
    length = asked.history.shape[1]
    place = torch.arange(length, device=nodes.device)
    found = []
    for columns, history in zip(asked.columns, asked.history, strict=True):
        first = place.new_full((len(nodes) + 1,), length)
        found.append(first.scatter_reduce_(0, history.remainder(len(first)), place, "amin")[columns])
    return found


@dataclass(frozen=True, eq=False)
class ShutNodes:
    """Nodes of one level below which a user comes to have all that there is.

    Attributes:
        tree: whose.
        keys: (K,) of sequence and node, ascending.
        after: (K,) behaviours before the one that shuts it.
    """

    tree: TreeNodes
    keys: Tensor
    after: Tensor

    def have(self, nodes: Tensor, prefixes: Prefixes) -> Tensor:
        """(R, C) which of nodes (R, C), -1 = none, are shut after each of R prefixes."""
        keys = _keys(self.tree, prefixes.sequence[:, None], nodes)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        shut: Tensor = (self.keys[place] == keys) & (self.after[place] < prefixes.length[:, None]) & (nodes >= 0)
        return shut


def shut_nodes(tree: TreeNodes, history: Tensor, first: int) -> dict[int, ShutNodes]:
    """By level from `first` on, where there are any; found from the leaves up, among parents of those below.

    Args:
        tree: whose.
        history: (B, L) leaves of the behaviours, -1 = none.
        first: the highest level.
    """
    sequence, place = (history >= 0).nonzero().unbind(dim=1)
    keys, which = torch.unique(_keys(tree, sequence, history[sequence, place]), return_inverse=True)
    after = place.new_zeros(len(keys)).scatter_reduce_(0, which, place, "amin", include_self=False)
    found = {}
    for level in range(tree.depth, first - 1, -1):
        if not len(keys):
            break
        found[level] = ShutNodes(tree, keys, after)
        sequence, nodes = keys // (2 * tree.slots), keys % (2 * tree.slots)
        early = nodes < (1 << level) - 1
        keys, which, children = torch.unique(
            _keys(tree, sequence, torch.where(early, nodes, (nodes - 1) // 2)), return_inverse=True, return_counts=True
        )
        after = after.new_zeros(len(keys)).scatter_reduce_(0, which, after, "amax", include_self=False)
        whole = children == _children(tree, keys % (2 * tree.slots))
        keys, after = keys[whole], after[whole]
    return found


def _children(tree: TreeNodes, nodes: Tensor) -> Tensor:
    """(n,) how many children of nodes (n,) have an item below; 1 for a leaf, which is its own child."""
    left = torch.where(nodes < tree.inner, 2 * nodes + 1, 0)
    return torch.where(nodes < tree.inner, tree.alive[left].long() + tree.alive[left + 1], 1)


def _keys(tree: TreeNodes, sequence: Tensor, nodes: Tensor) -> Tensor:
    """One number for a sequence and a node."""
    return sequence * (2 * tree.slots) + nodes


def _drawn(width: int, count: int, device: torch.device) -> Tensor:
    """Different numbers below `width`, `count` or (from a wide level) slightly fewer, all sets of as many alike."""
    if width < _DENSE * count:
        return torch.randperm(width, device=device)[:count]
    drawn: Tensor = torch.unique(torch.randint(width, (count,), device=device))
    return drawn


def _met(columns: Tensor, behaviours: Tensor) -> Tensor:
    """(Q,) both together, each once, ascending; -1 = none."""
    met: Tensor = torch.unique(torch.cat([columns, behaviours[behaviours >= 0]]))
    return met


def _places(nodes: Tensor, of: Tensor) -> Tensor:
    """Where nodes (…) are among others, ascending; -1 stays -1."""
    places: Tensor = torch.where(of < 0, of, torch.searchsorted(nodes, of.contiguous()))
    return places

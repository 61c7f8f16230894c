"""Re-learning a tree: each item goes to the node that its users like best, as far as there is room (JTM)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np

from recsys.errors import ConfigError, DataError
from recsys.index.item_tree import ItemTree, Nodes
from recsys.index.tree_building import spread_evenly
from recsys.types import Bools, Floats, Offsets, Rows

_AT_ONCE: Final = 1 << 24
"""Likelihoods that are asked for in one call, where several groups of items share one."""
_LARGEST: Final = 1 << 26
"""Likelihoods of one group of items; a larger one goes down fewer levels at a time.

They take 256 MB, and up to three times that while items are shared out."""


class Likelihoods(Protocol):
    """How well items would stand below nodes, by what their users did."""

    def __call__(self, rows: Rows, nodes: Nodes, sizes: Offsets, above: int, level: int) -> Floats:
        """(M, C) log-likelihood of an item's training samples if it lay below each node of its group.

        Of the path to the node from its ancestor at level `above`, which is the same for all nodes of an item: the
        sum over samples, and over levels above + 1…level. What is the same for all nodes of an item changes nothing.

        Args:
            rows: (M,) items, group after group.
            nodes: (G, C) nodes of `level` for each group; some may be given twice.
            sizes: (G,) how many items each group has.
            above: the level that the item's place is settled at.
            level: of the nodes, above + 1 or more.
        """
        ...


def relearned(tree: ItemTree, likelihoods: Likelihoods, levels_at_once: int = 7) -> ItemTree:
    """The tree with its items where they are likeliest; Zhu et al. 2019 (arXiv 1902.07565), algorithm 2.

    From the root down, items below a node are shared out to its descendants `levels_at_once` levels below, each of
    which takes as many as an even spread of the vacant leaves gives it.

    Args:
        tree: present places, which decide between equal likelihoods; rows that it lacks stay out.
        likelihoods: of the items' training samples.
        levels_at_once: d of the paper.

    Raises:
        ConfigError: for levels_at_once below 1.
        DataError: for likelihoods of a wrong shape, or that are not finite.
    """
    last = deque(relearning(tree, likelihoods, levels_at_once), maxlen=1)
    return last[0] if last else tree


def relearning(tree: ItemTree, likelihoods: Likelihoods, levels_at_once: int = 7) -> Iterator[ItemTree]:
    """As `relearned`, the tree after every step: settled down to some level, below which items are as they were."""
    if levels_at_once < 1:
        raise ConfigError(f"levels_at_once = {levels_at_once}: must be at least 1")
    held = tree.rows[tree.left_to_right()]
    order = held[held >= 0]
    below = spread_evenly(order, tree.slots, len(tree)).occupied().astype(np.int64)
    level = 0
    while level < tree.depth:
        down = min(levels_at_once, tree.depth - level)
        while down > 1 and int(below[tree.level(level)].max()) << down > _LARGEST:
            down -= 1
        for start, stop, nodes, room in _groups(tree, below, level, down):
            rows = order[start:stop]
            weights = likelihoods(rows, nodes, room.sum(axis=1), level, level + down)
            if weights.shape != (len(rows), nodes.shape[1]):
                raise DataError(
                    f"likelihoods of shape {weights.shape} were given for {len(rows)} items and {nodes.shape[1]} nodes"
                )
            chosen = shared_out(weights, room)
            order[start:stop] = rows[np.argsort(chosen, kind="stable")]
        level += down
        yield spread_evenly(order, tree.slots, len(tree))


def shared_out(weights: Floats, room: Offsets) -> Offsets:
    """(M,) the place 0…G·C-1 that each of M items goes to: greedily to its best, those who lose least giving way.

    Every item asks for the best place that has not turned it away; a place asked by more than it has room for turns
    away those that lose least by their next best, and so on until all have one. With two places a group (one level
    at a time) the sum of weights is the greatest possible; with more it is what greed finds.

    Args:
        weights: (M, C) of each item for the C places of its group.
        room: (G, C) of each place; items stand group by group, as many as its places have room for, and within it
            in the order of the places that they are in at present, which decide between equal weights.

    Raises:
        DataError: for weights that are not finite.
    """
    if not np.isfinite(weights).all():
        raise DataError("an item's likelihoods are not finite; lower the learning rate that made them")
    seats, places = room.ravel(), room.shape[1]
    first = np.repeat(np.arange(len(room)) * places, room.sum(axis=1))
    present = np.repeat(np.arange(len(seats)), seats) - first
    left = np.where((room > 0)[first // places], weights, -np.inf)
    chosen, loss = _best(left, present)
    least = np.full(len(seats), -np.inf)  # of the losses that a full place holds: who loses less need not ask
    while True:
        asked = first + chosen
        crowded = np.bincount(asked, minlength=len(seats)) > seats
        if not crowded.any():
            return asked
        asking = np.flatnonzero(crowded[asked])
        asking = asking[np.lexsort((present[asking] != chosen[asking], -loss[asking], asked[asking]))]
        place = asked[asking]
        rank = np.arange(len(asking)) - np.searchsorted(place, place)
        last = rank == seats[place] - 1
        least[place[last]] = loss[asking[last]]
        away = asking[rank >= seats[place]]
        while len(away):
            left[away, chosen[away]] = -np.inf
            chosen[away], loss[away] = _best(left[away], present[away])
            away = away[loss[away] < least[first[away] + chosen[away]]]


def _best(weights: Floats, present: Offsets) -> tuple[Offsets, Floats]:
    """(M,) column of the greatest of each row, the present one among equals; and by how much the next best is worse.

    Infinitely, where there is none.
    """
    each = np.arange(len(weights))
    chosen = weights.argmax(axis=1)
    best = weights[each, chosen]
    chosen = np.where(weights[each, present] >= best, present, chosen)
    weights[each, chosen] = -np.inf
    loss: Floats = best - weights.max(axis=1)
    weights[each, chosen] = best
    return chosen, loss


def _groups(tree: ItemTree, below: Offsets, level: int, down: int) -> Iterator[tuple[int, int, Nodes, Offsets]]:
    """(start, stop, nodes, room): items below some nodes of a level, and where they may go.

    Nodes (G, C) of `down` levels below, left to right; room (G, C) for items. A leaf that ends a level early has a
    second place that has no room.
    """
    tops = np.arange((1 << level) - 1, (1 << level + 1) - 1)
    sizes = below[tops]
    ends = np.cumsum(sizes)
    most = max(1, _AT_ONCE >> down)
    first = 0
    while first < len(tops):
        start = int(ends[first] - sizes[first])
        last = max(first + 1, int(np.searchsorted(ends, start + most, "right")))
        nodes, single = _below(tree, tops[first:last], level, down)
        room = np.where(single, 0, below[nodes])
        yield start, int(ends[last - 1]), nodes, room
        first = last


def _below(tree: ItemTree, tops: Nodes, level: int, down: int) -> tuple[Nodes, Bools]:
    """(G, 2^down) descendants from left to right, and which are an early leaf's second place."""
    step = down - (level + down == tree.depth)
    nodes = (tops[:, None] + 1 << step) - 1 + np.arange(1 << step)
    if step == down:
        return nodes, np.zeros(nodes.shape, np.bool_)
    early = (nodes >= tree.first_leaf)[..., None]
    pairs = np.where(early, nodes[..., None], 2 * nodes[..., None] + (1, 2))
    single = early & np.array([False, True])
    return pairs.reshape(len(tops), -1), single.reshape(len(tops), -1)

"""Scores of a level's nodes after every prefix of a batch of sequences, and a loss of them with its gradient.

All prefixes t of a sequence share E = exp(cap · tanh(S / cap)) and G, the products S_in = n·K h_i, G_in = n·V h_i of
its behaviours i and the nodes n; what tells prefixes apart is the weight of an age alone. With W_ti that weight, 0 for
behaviours still to come,

    A = W (E ∘ G) / W E

is two products instead of a tensor (prefixes, behaviours, nodes). W is a band, `attended` wide, and only its blocks
are multiplied. E and G of columns that sequences share are made once for each node that behaviours of the batch enter
as. Losses take their gradient on the way forward, sequence by sequence, so that no more than a sequence's scores are
ever held, in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from recsys.models.behaviour_pairs import BehaviourPairs, LevelTable

Slope: TypeAlias = Callable[[Tensor, int], Tensor]
"""Scores (T, M) of the nodes asked of sequence b, after its T prefixes → their summed loss; leaves its gradient in
place of the scores."""

_TINY = 1e-20
"""The weight of no behaviour at all, instead of 0."""
_REPEATED = 1.5
"""Behaviours that must enter as one node on average for pairs to be made once a node, not once a behaviour."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """The R prefixes that are asked for, sequence by sequence, each sequence's by length.

    Attributes:
        sequence, length: (R,) which sequence, and how many of its behaviours.
        bounds: B + 1 places in these, one sequence from each to the next.
        bands: by sequence, the blocks of W that hold all that is not 0: rows, from the sequence's first, and
            behaviours.
    """

    sequence: Tensor
    length: Tensor
    bounds: Sequence[int]
    bands: Sequence[Sequence[tuple[slice, slice]]]

    @classmethod
    def of(cls, asked: Tensor, attended: int) -> Prefixes:
        """From (B, L + 1), whether the prefix of each length is asked for; the newest `attended` behaviours count."""
        sequence, length = asked.nonzero().unbind(dim=1)
        bounds = [0, *torch.bincount(sequence, minlength=len(asked)).cumsum(0).tolist()]
        lengths = length.tolist()
        bands = [_bands(lengths[start:stop], attended) for start, stop in pairwise(bounds)]
        return cls(sequence, length, bounds, bands)

    def __len__(self) -> int:
        return len(self.length)

    def slices(self) -> Iterator[tuple[int, slice]]:
        """Each sequence that has any, and its rows."""
        for b, (start, stop) in enumerate(pairwise(self.bounds)):
            if start < stop:
                yield b, slice(start, stop)


@dataclass(frozen=True, eq=False)
class LevelNodes:
    """What the prefixes of each of B sequences are asked about, as rows of a level's table of node vectors.

    Attributes:
        columns: by sequence, (M_b,) the nodes that its prefixes score.
        history: (B, L) ancestors of the behaviours, -1 = none.
        shared: how many columns, each sequence's last ones, are the same for all.
    """

    columns: Sequence[Tensor]
    history: Tensor
    shared: int = 0


def level_loss(
    users: Tensor, table: LevelTable, factors: Tensor, prefixes: Prefixes, nodes: LevelNodes, cap: float, slope: Slope
) -> Tensor:
    """The summed loss of all prefixes' scores e_u·n + A_u(n), a scalar.

    Args:
        users: (R, d_out) e_u.
        table: of this level.
        factors: (L + 1, L) W, by length of the prefix.
        prefixes: who is asked.
        nodes: what.
        cap: of the attention.
        slope: the loss and its gradient.
    """
    loss = _LevelLoss.apply(  # type: ignore[no-untyped-call]
        users, table.vectors, table.keys, table.values, factors, prefixes, nodes, cap, slope
    )
    return cast(Tensor, loss)


@torch.no_grad()
def level_scores(
    users: Tensor, table: LevelTable, factors: Tensor, prefixes: Prefixes, nodes: LevelNodes, cap: float
) -> Iterator[tuple[int, Tensor]]:
    """Each sequence that is asked anything, and the scores (T, M_b) after its prefixes; arguments as `level_loss`."""
    common = _common(table, prefixes, nodes, cap)
    for b, rows in prefixes.slices():
        yield b, _Part(users, table, factors, prefixes, nodes, cap, common, b, rows).scores()


class _Common:
    """The pairs of shared columns and of all nodes that behaviours enter as, and the gradient gathered for them.

    Attributes:
        place: (B, L) where each behaviour is among the pairs.
        grad: as the pairs' parts.
    """

    def __init__(self, table: LevelTable, behaviours: Tensor, place: Tensor, columns: Tensor, cap: float) -> None:
        self.pairs = BehaviourPairs(table, behaviours, columns, cap)
        self.place = place
        self.grad = torch.zeros_like(self.pairs.parts)


def _common(table: LevelTable, prefixes: Prefixes, nodes: LevelNodes, cap: float) -> _Common | None:
    """None where hardly any two behaviours enter as one node: then it is no gain."""
    if not nodes.shared or not len(prefixes):
        return None
    behaviours, place = torch.unique(nodes.history, return_inverse=True)
    looked_at = sum(int(prefixes.length[rows.stop - 1]) for _, rows in prefixes.slices())
    if _REPEATED * len(behaviours) > looked_at:
        return None
    return _Common(table, behaviours, place, nodes.columns[0][-nodes.shared :], cap)


class _Part:
    """The scores of one sequence, and what its gradient needs of them."""

    def __init__(
        self,
        users: Tensor,
        table: LevelTable,
        factors: Tensor,
        prefixes: Prefixes,
        nodes: LevelNodes,
        cap: float,
        common: _Common | None,
        b: int,
        rows: slice,
    ) -> None:
        self.columns, self.rows, self.bands = nodes.columns[b], rows, prefixes.bands[b]
        self.lengths = prefixes.length[rows]
        self.factors = factors[self.lengths]
        self.users, self.nodes = users[rows], table.vectors[self.columns]
        length = int(self.lengths[-1])
        self.common, own = common, len(self.columns) - (nodes.shared if common is not None else 0)
        self.own = BehaviourPairs(table, nodes.history[b, :length], self.columns[:own], cap) if own else None
        self.blocks = [] if self.own is None else [(slice(0, own), self.own.parts)]
        if common is not None:
            self.place = common.place[b, :length]
            self.blocks.append((slice(own, None), common.pairs.parts[self.place]))
        self.sums: list[Tensor] = []

    def scores(self) -> Tensor:
        """(T, M)."""
        self.attention = self.users.new_empty(len(self.users), len(self.columns))
        for columns, parts in self.blocks:
            sums = self.users.new_zeros(len(self.users), *parts.shape[1:])
            for here, of in self.bands:
                torch.mm(self.factors[here, of], parts[of].flatten(1), out=sums[here].flatten(1))
            sums[:, 1].clamp_(min=_TINY)
            torch.div(sums[:, 0], sums[:, 1], out=self.attention[:, columns])
            self.sums.append(sums)
        return torch.addmm(self.attention, self.users, self.nodes.T)

    def add_gradient(self, slope: Tensor, users: Tensor, grads: LevelTable, factors: Tensor) -> None:
        """Adds what a slope of the scores (T, M) is of everything they were made of."""
        torch.mm(slope, self.nodes, out=users[self.rows])
        grads.vectors.index_add_(0, self.columns, slope.T @ self.users)
        of_factors = torch.zeros_like(self.factors)
        of_parts = [self._slope_of_parts(slope, block, of_factors) for block in range(len(self.blocks))]
        factors.index_add_(0, self.lengths, of_factors)
        if self.common is not None:
            self.common.grad.index_add_(0, self.place, of_parts.pop())
        if self.own is not None:
            self.own.add_gradient(of_parts.pop(), grads)

    def _slope_of_parts(self, slope: Tensor, block: int, factors: Tensor) -> Tensor:
        """(n, 2, m) of a block's parts; adds to that of the factors (T, L)."""
        (columns, parts), sums = self.blocks[block], self.sums[block]
        torch.div(slope[:, columns], sums[:, 1], out=sums[:, 0])
        torch.mul(sums[:, 0], self.attention[:, columns], out=sums[:, 1]).neg_()
        found = torch.zeros_like(parts)
        for here, of in self.bands:
            factors[here, of].addmm_(sums[here].flatten(1), parts[of].flatten(1).T)
            found[of].flatten(1).addmm_(self.factors[here, of].T, sums[here].flatten(1))
        return found


class _LevelLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        vectors: Tensor,
        keys: Tensor,
        values: Tensor,
        factors: Tensor,
        prefixes: Prefixes,
        nodes: LevelNodes,
        cap: float,
        slope: Slope,
    ) -> Tensor:
        kinds = [given.dtype for given in (users, vectors, keys, values, factors)]
        with torch.autocast(users.device.type, enabled=False):
            given = [tensor.float() for tensor in (users, vectors, keys, values, factors)]
            table = LevelTable(*given[1:4])
            grads = [torch.zeros_like(tensor) for tensor in given]
            of_table = LevelTable(*grads[1:4])
            total = given[0].new_zeros(())
            common = _common(table, prefixes, nodes, cap)
            for b, rows in prefixes.slices():
                part = _Part(given[0], table, given[4], prefixes, nodes, cap, common, b, rows)
                scores = part.scores()
                total += slope(scores, b)
                part.add_gradient(scores, grads[0], of_table, grads[4])
            if common is not None:
                common.pairs.add_gradient(common.grad, of_table)
        ctx.save_for_backward(*(grad.to(kind) for grad, kind in zip(grads, kinds, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (*(grad * upstream[0] for grad in ctx.saved_tensors), *[None] * 4)


def _bands(lengths: Sequence[int], attended: int) -> list[tuple[slice, slice]]:
    """Blocks of rows whose lengths, ascending, are alike up to `attended`, and the behaviours that they look at."""
    bands = []
    start = 0
    for _, alike in groupby(lengths, lambda length: length // attended):
        stop = start + len(list(alike))
        bands.append((slice(start, stop), slice(max(0, lengths[start] - attended), lengths[stop - 1])))
        start = stop
    return bands

"""Scores of a level's nodes after every prefix of a batch of sequences, and a loss of them with its gradient.

All prefixes t of a sequence share E = exp(cap · tanh(S / cap)) and G, the products S_in = n·K h_i, G_in = n·V h_i of
its behaviours i and the nodes n; what tells prefixes apart is the weight of an age alone. With W_ti that weight, 0 for
behaviours still to come,

    A = W (E ∘ G) / W E

is two products instead of a tensor (prefixes, behaviours, nodes). W is a band, `attended` wide, and only its blocks
are multiplied. Losses take their gradient on the way forward, sequence by sequence, so that no more than a sequence's
scores are ever held, in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

Slope: TypeAlias = Callable[[Tensor, int], Tensor]
"""Scores (T, M) of the nodes asked of sequence b, after its T prefixes → their summed loss; leaves its gradient in
place of the scores."""

_TINY = 1e-20
"""The weight of no behaviour at all, instead of 0."""


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
    """

    columns: Sequence[Tensor]
    history: Tensor


@dataclass(frozen=True, eq=False)
class LevelTable:
    """Vectors of the nodes of one level that a batch meets.

    Attributes:
        vectors: (Q, d_out), by what a user's vector is multiplied.
        keys, values: (Q, d), K h and V h of each as a behaviour.
    """

    vectors: Tensor
    keys: Tensor
    values: Tensor

    def scaled(self, times: Tensor) -> LevelTable:
        """The same with what attention adds multiplied, as users' vectors are that are over a temperature."""
        return replace(self, values=self.values * times)


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
    for b, rows in prefixes.slices():
        part = _Part(users, table, factors, prefixes, nodes, cap, b, rows)
        yield b, part.scores()


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
        b: int,
        rows: slice,
    ) -> None:
        self.columns, self.rows, self.cap = nodes.columns[b], rows, cap
        self.lengths = prefixes.length[rows]
        history = nodes.history[b, : int(self.lengths[-1])]
        absent = history < 0
        self.absent = absent if absent.any() else None
        self.history = history.clamp(min=0)
        self.bands = prefixes.bands[b]
        self.factors = factors[self.lengths]
        self.users, self.nodes = users[rows], table.vectors[self.columns]
        self.keys, self.values = table.keys[self.history], table.values[self.history]

    def scores(self) -> Tensor:
        """(T, M)."""
        bare = self.nodes[:, : self.keys.shape[1]]
        self.curve = (self.keys @ bare.T).div_(self.cap).tanh_()
        self.gains = self.values @ bare.T
        self.parts = self.gains.new_empty(len(self.gains), 2, len(bare))
        self.shares = torch.mul(self.curve, self.cap, out=self.parts[:, 1]).exp_()
        if self.absent is not None:
            self.shares[self.absent] = 0.0
        torch.mul(self.shares, self.gains, out=self.parts[:, 0])
        self.sums = self.users.new_zeros(len(self.users), 2, len(bare))
        flat, sums = self.parts.flatten(1), self.sums.flatten(1)
        for here, of in self.bands:
            torch.mm(self.factors[here, of], flat[of], out=sums[here])
        self.sums[:, 1].clamp_(min=_TINY)
        self.attention = self.sums[:, 0] / self.sums[:, 1]
        return torch.addmm(self.attention, self.users, self.nodes.T)

    def add_gradient(self, slope: Tensor, users: Tensor, grads: LevelTable, factors: Tensor) -> None:
        """Adds what a slope of the scores (T, M) is of everything they were made of."""
        bare = self.nodes[:, : self.keys.shape[1]]
        torch.mm(slope, self.nodes, out=users[self.rows])
        nodes = slope.T @ self.users
        torch.div(slope, self.sums[:, 1], out=self.sums[:, 0])
        torch.mul(self.sums[:, 0], self.attention, out=self.sums[:, 1]).neg_()
        flat, sums = self.parts.flatten(1), self.sums.flatten(1)
        parts = torch.zeros_like(self.parts)
        of_factors = torch.zeros_like(self.factors)
        for here, of in self.bands:
            torch.mm(sums[here], flat[of].T, out=of_factors[here, of])
            parts.flatten(1)[of].addmm_(self.factors[here, of].T, sums[here])
        factors.index_add_(0, self.lengths, of_factors)
        of_gains = parts[:, 0] * self.shares
        of_scores = parts[:, 1].mul_(self.shares).addcmul_(of_gains, self.gains)
        of_scores.addcmul_(of_scores, self.curve.square_(), value=-1.0)
        nodes[:, : bare.shape[1]].addmm_(of_scores.T, self.keys).addmm_(of_gains.T, self.values)
        grads.vectors.index_add_(0, self.columns, nodes)
        grads.keys.index_add_(0, self.history, of_scores @ bare)
        grads.values.index_add_(0, self.history, of_gains @ bare)


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
            for b, rows in prefixes.slices():
                part = _Part(given[0], table, given[4], prefixes, nodes, cap, b, rows)
                scores = part.scores()
                total += slope(scores, b)
                part.add_gradient(scores, grads[0], of_table, grads[4])
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

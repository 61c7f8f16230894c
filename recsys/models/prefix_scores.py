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

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from recsys.models.behaviour_pairs import BehaviourPairs, LevelTable

Slope: TypeAlias = Callable[[Tensor, int], Tensor]
"""Scores (T, M) of the nodes asked of sequence b, after its T prefixes → their summed loss; leaves its gradient in
place of the scores."""

_TINY = 1e-20
"""The weight of no behaviour at all, instead of 0; so a cap, and what ages take off, must stay below 46 together."""
_PAIRS_AT_ONCE = 1 << 17
"""Behaviours times nodes in a slice: their matrices, half a MiB each, stay in the cache."""
_REPEATED = 1.5
"""Behaviours that must enter as one node on average for pairs to be made once a node, not once a behaviour."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """The R prefixes that are asked for, sequence by sequence, each sequence's by length.

    Attributes:
        sequence, length: (R,) which sequence, and how many of its behaviours.
        bounds: B + 1 places in these, one sequence from each to the next.
        attended: newest behaviours that count.
    """

    sequence: Tensor
    length: Tensor
    bounds: Sequence[int]
    attended: int

    @classmethod
    def of(cls, asked: Tensor, attended: int) -> Prefixes:
        """From (B, L + 1), whether the prefix of each length is asked for."""
        sequence, length = asked.nonzero().unbind(dim=1)
        bounds = [0, *torch.bincount(sequence, minlength=len(asked)).cumsum(0).tolist()]
        return cls(sequence, length, bounds, attended)

    def __len__(self) -> int:
        return len(self.length)

    @cached_property
    def alike(self) -> list[tuple[list[int], list[int]]]:
        """Runs of neighbours, and lengths that each one's are a stretch of; who asks nothing is in none."""
        runs: list[tuple[list[int], list[int]]] = []
        for b in range(len(self.bounds) - 1):
            mine = self.lengths_of(b)
            if not mine:
                continue
            run, longest = runs[-1] if runs else ([], [])
            known, other = (longest, mine) if len(longest) >= len(mine) else (mine, longest)
            first = bisect_left(known, other[0]) if other else 0
            if run and known[first : first + len(other)] == other:
                runs[-1] = ([*run, b], known)
            else:
                runs.append(([b], mine))
        return runs

    def bands(self, places: Sequence[int]) -> list[tuple[slice, slice]]:
        """Blocks of the rows of W for prefixes of lengths `places`, ascending, that hold all that is not 0."""
        bands = []
        start = 0
        for _, near in groupby(places, lambda length: length // self.attended):
            stop = start + len(list(near))
            bands.append((slice(start, stop), slice(max(0, places[start] - self.attended), places[stop - 1])))
            start = stop
        return bands

    def lengths_of(self, b: int) -> list[int]:
        """Those of one sequence."""
        return self._lengths[self.bounds[b] : self.bounds[b + 1]]

    @cached_property
    def _lengths(self) -> list[int]:
        found: list[int] = self.length.tolist()
        return found


@dataclass(frozen=True, eq=False)
class LevelNodes:
    """What the prefixes of each of B sequences are asked about, as rows of a level's table of node vectors.

    Attributes:
        columns: by sequence, (M_b,) the nodes that its prefixes score.
        history: (B, L) ancestors of the behaviours, -1 = none.
        shared: whether the columns are the same for all sequences.
    """

    columns: Sequence[Tensor]
    history: Tensor
    shared: bool = False


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
    for part, scores in _Level(users, table, factors, prefixes, nodes, cap).scored():
        for b, here in part.places():
            yield b, scores[here]


class _Level:
    """What all slices of a level have in common, in single precision whatever is given and autocast does.

    Attributes:
        pairs: of the shared columns and all nodes that behaviours enter as; None where columns are not shared, or
            hardly any two behaviours enter as one node, and it is no gain.
        place: (B, L) where each behaviour is among the pairs.
        grad: gathered for them, as the pairs' parts.
    """

    def __init__(
        self,
        users: Tensor,
        table: LevelTable,
        factors: Tensor,
        prefixes: Prefixes,
        nodes: LevelNodes,
        cap: float,
    ) -> None:
        self.users, self.factors = users.float(), factors.float()
        self.table = LevelTable(table.vectors.float(), table.keys.float(), table.values.float())
        self.prefixes, self.nodes, self.cap = prefixes, nodes, cap
        self.pairs: BehaviourPairs | None = None
        if nodes.shared and len(prefixes):
            behaviours, self.place = torch.unique(nodes.history, return_inverse=True)
            if _REPEATED * len(behaviours) < nodes.history.numel():
                with self.single_precision():
                    self.pairs = BehaviourPairs(self.table, behaviours, nodes.columns[0], cap)
                self.grad = torch.zeros_like(self.pairs.parts)

    def single_precision(self) -> torch.autocast:
        """No product is cast meanwhile."""
        return torch.autocast(self.users.device.type, enabled=False)

    def scored(self) -> Iterator[tuple[_Part, Tensor]]:
        """Slice by slice, and its scores."""
        for sequences, lengths in self.slices():
            with self.single_precision():
                part = _Part(self, sequences, lengths)
                scores = part.scores()
            yield part, scores

    def slices(self) -> Iterator[tuple[list[int], list[int]]]:
        """Sequences computed together, as many as the cache holds, and lengths that theirs are stretches of."""
        for run, lengths in self.prefixes.alike:
            size = max(1, _PAIRS_AT_ONCE // max(1, lengths[-1] * len(self.nodes.columns[run[0]])))
            size = size if self.nodes.shared else 1
            for start in range(0, len(run), size):
                yield run[start : start + size], lengths

    def parts(self, sequences: Sequence[int], length: int) -> tuple[Tensor, BehaviourPairs | None]:
        """(L, G, 2, M) pairs of the first L behaviours of G sequences, and those made for them alone."""
        if self.pairs is not None:
            return self.pairs.parts[self.place[sequences, :length].T], None
        behaviours = self.nodes.history[sequences, :length].T
        own = BehaviourPairs(self.table, behaviours.flatten(), self.nodes.columns[sequences[0]], self.cap)
        return own.parts.view(*behaviours.shape, *own.parts.shape[1:]), own

    def add_gradient(self, grads: LevelTable) -> None:
        """Adds what was gathered for the pairs of all slices."""
        if self.pairs is not None:
            self.pairs.add_gradient(self.grad, grads)


class _Part:
    """The scores of G sequences alike, and what their gradient needs of them: rows are places, then sequences.

    Args:
        level: of which.
        sequences: which, neighbours.
        lengths: of prefixes; each one's are a stretch of them.
    """

    def __init__(self, level: _Level, sequences: list[int], lengths: list[int]) -> None:
        self.level, self.sequences = level, sequences
        prefixes = level.prefixes
        asked = [prefixes.lengths_of(b) for b in sequences]
        first, last = min(mine[0] for mine in asked), max(mine[-1] for mine in asked)
        self.lengths = lengths[bisect_left(lengths, first) : bisect_left(lengths, last) + 1]
        self.at = torch.tensor(self.lengths, device=level.users.device)
        self.bands = prefixes.bands(self.lengths)
        self.factors = level.factors[self.at]
        self.columns = level.nodes.columns[sequences[0]]
        self.nodes = level.table.vectors[self.columns]
        self.users = level.users.new_zeros(len(self.lengths), len(sequences), level.users.shape[1])
        for b, here in self.places():
            self.users[here] = level.users[prefixes.bounds[b] : prefixes.bounds[b + 1]]
        self.parts, self.own = level.parts(sequences, self.lengths[-1])
        self.ragged = any(len(mine) < len(self.lengths) for mine in asked)

    def places(self) -> Iterator[tuple[int, tuple[slice, int]]]:
        """Each sequence, and its rows."""
        for g, b in enumerate(self.sequences):
            mine = self.level.prefixes.lengths_of(b)
            first = bisect_left(self.lengths, mine[0])
            yield b, (slice(first, first + len(mine)), g)

    def scores(self) -> Tensor:
        """(P, G, M); what is no row of a sequence has some score."""
        flat = self.parts.flatten(1)
        sums = flat.new_zeros(len(self.lengths), flat.shape[1])
        for here, of in self.bands:
            torch.mm(self.factors[here, of], flat[of], out=sums[here])
        self.sums = sums.view(*self.users.shape[:2], *self.parts.shape[2:])
        self.sums[:, :, 1].clamp_(min=_TINY)
        self.attention = self.sums[:, :, 0] / self.sums[:, :, 1]
        scores = torch.addmm(self.attention.flatten(0, 1), self.users.flatten(0, 1), self.nodes.T)
        return scores.view_as(self.attention)

    def add_gradient(self, slope: Tensor, users: Tensor, grads: LevelTable, factors: Tensor) -> None:
        """Adds what a slope of the scores (P, G, M) is of everything they were made of; 0 in what is no row."""
        rows = slope.flatten(0, 1)
        of_users = (rows @ self.nodes).view_as(self.users)
        for b, here in self.places():
            bounds = self.level.prefixes.bounds
            users[bounds[b] : bounds[b + 1]] = of_users[here]
        grads.vectors.index_add_(0, self.columns, rows.T @ self.users.flatten(0, 1))
        torch.div(slope, self.sums[:, :, 1], out=self.sums[:, :, 0])
        torch.mul(self.sums[:, :, 0], self.attention, out=self.sums[:, :, 1]).neg_()
        flat, sums = self.parts.flatten(1), self.sums.flatten(1)
        of_factors, of_parts = torch.zeros_like(self.factors), flat.new_zeros(flat.shape)
        for band, of in self.bands:
            torch.mm(sums[band], flat[of].T, out=of_factors[band, of])
            of_parts[of].addmm_(self.factors[band, of].T, sums[band])
        factors.index_add_(0, self.at, of_factors)
        gathered = of_parts.view(-1, *self.parts.shape[2:])
        if self.own is not None:
            self.own.add_gradient(gathered, grads)
        else:
            place = self.level.place[self.sequences, : len(self.parts)].T.flatten()
            self.level.grad.index_add_(0, place, gathered)


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
        given = (users, vectors, keys, values, factors)
        grads = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in given]
        of_table = LevelTable(*grads[1:4])
        total = grads[0].new_zeros(())
        level = _Level(users, LevelTable(vectors, keys, values), factors, prefixes, nodes, cap)
        with level.single_precision():
            for part, scores in level.scored():
                slopes = torch.zeros_like(scores) if part.ragged else scores
                for b, here in part.places():
                    total += slope(scores[here], b)
                    if part.ragged:
                        slopes[here] = scores[here]
                part.add_gradient(slopes, grads[0], of_table, grads[4])
            level.add_gradient(of_table)
        ctx.save_for_backward(*(grad.to(tensor.dtype) for grad, tensor in zip(grads, given, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (*(grad * upstream[0] for grad in ctx.saved_tensors), *[None] * 4)

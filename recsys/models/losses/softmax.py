"""Softmax over a catalogue: in full without ever holding all logits, and sampled with its correction.

A row of users is one vector or K interests. Of several, an item's logit is the logarithm of the summed exponentials of
its K products, a soft maximum, or their maximum itself, which is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

Correction: TypeAlias = Literal["corrected", "classic", "none"]
Credit: TypeAlias = Literal["logsumexp", "max"]
"""How a row's interests share an item's logit, and with it the gradient."""

_LOGITS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 27}
"""On a CPU, 4 MiB of logits stay in cache from the product to the gradient."""

_NEVER = -1e9
"""A logit whose share is zero; finite, so that a row whose columns are all masked still has a gradient."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the user of each of R rows had when the target was chosen: the first items of a sequence.

    Attributes:
        sequences: (B, L) rows of items, oldest first.
        sequence: (R,) which sequence a row belongs to.
        length: (R,) how many of its items came before.
    """

    sequences: Tensor
    sequence: Tensor
    length: Tensor

    def columns(self, part: slice, otherwise: Tensor) -> Tensor:
        """(r, L) items seen by the rows of a slice, `otherwise` (r, 1) in the places after them."""
        places = torch.arange(self.sequences.shape[1], device=self.sequences.device)
        return torch.where(places < self.length[part, None], self.sequences[self.sequence[part]], otherwise)


def full_softmax(
    users: Tensor,
    items: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    seen: Seen | None = None,
    credit: Credit = "logsumexp",
    bf16: bool = False,
) -> Tensor:
    """Mean cross-entropy of targets under softmax(users · itemsᵀ) over all N items; 0 for no rows.

    The gradient is taken on the way forward, slice by slice, so that logits are computed once and R × N of them
    are never in memory.

    Args:
        users: (R, [K,] d), already divided by the temperature; an interest that is the first once more is none.
        items: (N, d).
        targets: (R,) rows of `items`.
        label_smoothing: share of the label spread evenly over all items that the target is told from.
        seen: items that a row's target is not told from, the target itself excepted; None = it is told from all.
        credit: of several interests.
        bf16: compute the products in bfloat16, about three times as fast where the processor has it.

    Returns:
        A scalar.
    """
    loss = _FullSoftmax.apply(  # type: ignore[no-untyped-call]
        _with_interests(users), items, targets, label_smoothing, seen, credit, bf16
    )
    return cast(Tensor, loss)


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        targets: Tensor,
        smoothing: float,
        seen: Seen | None,
        credit: Credit,
        bf16: bool,
    ) -> Tensor:
        kind = torch.bfloat16 if bf16 else users.dtype
        table = items.to(kind)
        grad_users, grad_items = torch.empty_like(users), torch.zeros_like(items)
        total = users.new_zeros(())
        interests, closed = users.shape[1], _closed(users, kind)
        at_once = _rows_at_once(users, len(items))
        for start in range(0, len(users), at_once):
            part = slice(start, start + at_once)
            vectors = users[part].to(kind)
            target = targets[part, None, None].expand(-1, interests, -1)
            logits = _products(vectors, table)
            if closed is not None:
                logits += closed[part]
            own = logits.gather(2, target)
            if seen is not None:
                columns = seen.columns(part, targets[part, None])[:, None].expand(-1, interests, -1)
                logits.scatter_(2, columns, _NEVER).scatter_(2, target, own)
            slope = _shares(logits, credit)
            own_share = slope.gather(2, target).sum(dim=1).to(users.dtype)
            log_share = own_share.clamp(min=torch.finfo(users.dtype).tiny).log()
            total -= log_share.sum()
            if smoothing:
                scores = _scores(logits, credit)
                log_norm = _scores(own, credit).to(users.dtype) - log_share
                total += smoothing * (log_norm + log_share).sum()
                told = (scores > _NEVER / 2).to(users.dtype)
                evenly = smoothing * told / told.sum(dim=1, keepdim=True)
                total -= (scores * evenly).sum()
                slope -= (evenly.unsqueeze(1) * _split(logits, credit)).to(kind)
            slope.scatter_add_(2, target, (smoothing - 1.0) * _split(own, credit))
            grad_users[part] = _products(slope, table.T)
            grad_items += slope.flatten(0, 1).T @ vectors.flatten(0, 1)
        ctx.save_for_backward(grad_users, grad_items)
        ctx.rows = rows = max(1, len(users))
        return total / rows

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_users, grad_items = ctx.saved_tensors
        scale = upstream[0] / ctx.rows
        return grad_users * scale, grad_items * scale, None, None, None, None, None


def expected_counts(shares: Tensor, others: float, uniform: int, catalogue: int) -> Tensor:
    """E_i: how often item i is expected among one row's negative columns.

    Args:
        shares: (M,) q_i, each column item's share of the training positives.
        others: columns that are other rows' positives, drawn by q; B - 1 for a batch of B.
        uniform: columns B' drawn evenly from the catalogue.
        catalogue: N.
    """
    return others * shares + uniform / catalogue


def sampled_softmax(
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    positive_rows: Tensor,
    negative_rows: Tensor,
    log_expected: Tensor,
    positive_log_expected: Tensor | None = None,
    row_groups: Tensor | None = None,
    column_groups: Tensor | None = None,
    correction: Correction = "corrected",
    credit: Credit = "logsumexp",
    bf16: bool = False,
) -> Tensor:
    """Mean cross-entropy of the positive among sampled negatives; 0 for no rows.

    "corrected" is the form to which Khrylchenko et al. 2025 reduces: [f_pos ; f_i - log E_i], columns equal to the
    row's positive masked, the positive itself uncorrected; its gradient's bias decays with the number of negatives.
    "classic" (Yi et al. 2019) subtracts from the positive too and keeps accidental hits. "none" corrects nothing
    and keeps hits, so popular items, which are drawn often, are pushed down too far.

    All three take the columns for draws that know nothing of the row. Targets of the row's own sequence are no such
    draws (they are what this very user chose, and far more frequent here than E_i says): they are no columns of it.

    Args:
        users: (R, [K,] d), already divided by the temperature; an interest that is the first once more is none.
        positives: (R, d), the positive of each row.
        negatives: (M, d), columns shared by all rows.
        positive_rows: (R,) catalogue rows of the positives.
        negative_rows: (M,) catalogue rows of the columns, to find accidental hits.
        log_expected: (M,) log E_i of the columns.
        positive_log_expected: (R,) log E of the positives, for "classic".
        row_groups: (R,) the sequence that each row is a place of; None = every row is on its own.
        column_groups: (M,) the sequence that each column is a target of, -1 = drawn from the catalogue; a column is
            masked in the rows of its own sequence. None = no column comes from a row.
        correction: which form.
        credit: of several interests.
        bf16: as in `full_softmax`.

    Returns:
        A scalar.
    """
    offset = torch.zeros_like(log_expected) if correction == "none" else log_expected
    subtracted = positive_log_expected if correction == "classic" else None
    masked = []
    if correction == "corrected":
        masked.append(_equal_pairs(positive_rows, negative_rows))
    if column_groups is not None:
        groups = torch.arange(len(users), device=users.device) if row_groups is None else row_groups
        masked.append(_equal_pairs(groups, column_groups))
    loss = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
        _with_interests(users), positives, negatives, offset, subtracted, _by_row(masked), credit, bf16
    )
    return cast(Tensor, loss)


class _SampledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        offset: Tensor,
        positive_offset: Tensor | None,
        masked: tuple[Tensor, Tensor],
        credit: Credit,
        bf16: bool,
    ) -> Tensor:
        kind = torch.bfloat16 if bf16 else users.dtype
        table = negatives.to(kind)
        closed = _closed(users, users.dtype)
        positive = (users * positives.unsqueeze(1)).sum(dim=2, keepdim=True)
        if closed is not None:
            positive += closed
        if positive_offset is not None:
            positive -= positive_offset[:, None, None]
        offset = offset.to(users.dtype)
        masked_rows, masked_columns = masked
        grad_users, grad_negatives = torch.empty_like(users), torch.zeros_like(negatives)
        own_share = torch.empty_like(positive)
        count = len(negatives)
        at_once = _rows_at_once(users, count)
        # The positive is the last column.
        logits = users.new_empty((min(at_once, len(users)), users.shape[1], count + 1))
        for start in range(0, len(users), at_once):
            part = slice(start, start + at_once)
            vectors = users[part].to(kind)
            block = logits[: len(vectors)]
            torch.sub(_products(vectors, table), offset, out=block[:, :, :count])
            if closed is not None:
                block[:, :, :count] += closed[part]
            low, high = torch.searchsorted(masked_rows, masked_rows.new_tensor([start, start + at_once])).tolist()
            block[masked_rows[low:high] - start, :, masked_columns[low:high]] = _NEVER
            block[:, :, count:] = positive[part]
            share = _shares(block, credit)
            own_share[part] = share[:, :, count:]
            slope = share[:, :, :count].to(kind)
            grad_users[part] = _products(slope, table.T)
            grad_negatives += slope.flatten(0, 1).T @ vectors.flatten(0, 1)
        pull = own_share - _split(positive, credit)
        grad_users += pull * positives.unsqueeze(1)
        ctx.save_for_backward(grad_users, (pull * users).sum(dim=1), grad_negatives)
        ctx.rows = rows = max(1, len(users))
        return -own_share.sum(dim=1).clamp_(min=torch.finfo(users.dtype).tiny).log_().sum() / rows

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        scale = upstream[0] / ctx.rows
        return (*(grad * scale for grad in grads), *[None] * 5)


def _with_interests(users: Tensor) -> Tensor:
    """(R, [K,] d) → (R, K, d)."""
    return users if users.dim() == 3 else users.unsqueeze(1)


def _rows_at_once(users: Tensor, columns: int) -> int:
    return max(1, _LOGITS_AT_ONCE.get(users.device.type, 1 << 20) // (columns * users.shape[1]))


def _closed(users: Tensor, kind: torch.dtype) -> Tensor | None:
    """(R, K, 1) what is added to an interest's products: 0, or never for the first interest once more.

    None where all interests of all rows are there.
    """
    repeated = (users == users[:, :1]).all(dim=2, keepdim=True)
    repeated[:, 0] = False
    return torch.zeros_like(users[:, :, :1], dtype=kind).masked_fill_(repeated, _NEVER) if repeated.any() else None


def _products(left: Tensor, right: Tensor) -> Tensor:
    """(r, K, a) and (b, a) → (r, K, b), in one product of matrices."""
    products: Tensor = left.flatten(0, 1) @ right.T
    return products.view(*left.shape[:2], len(right))


def _shares(logits: Tensor, credit: Credit) -> Tensor:
    """Probabilities (r, K, N) that it is an item, by which interest: they sum to 1 over both."""
    if credit == "logsumexp" or logits.shape[1] == 1:
        return torch.softmax(logits.flatten(1), dim=1).view_as(logits)
    return torch.softmax(logits.amax(dim=1, keepdim=True), dim=2) * _split(logits, credit)


def _split(logits: Tensor, credit: Credit) -> Tensor:
    """(r, K, N) what share of an item's logit each interest has: its slope in `_scores`."""
    if logits.shape[1] == 1:
        return logits.new_ones(()).expand_as(logits)
    if credit == "logsumexp":
        return torch.softmax(logits, dim=1)
    greatest = (logits == logits.amax(dim=1, keepdim=True)).to(logits.dtype)
    return greatest / greatest.sum(dim=1, keepdim=True)


def _scores(logits: Tensor, credit: Credit) -> Tensor:
    """(r, K, N) products → (r, N) logits."""
    return torch.logsumexp(logits, dim=1) if credit == "logsumexp" else logits.amax(dim=1)


def _by_row(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Lists of (row, column) pairs as one, by row; empty for none."""
    if not pairs:
        return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    rows, columns = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    if len(pairs) == 1:
        return rows, columns
    rows, order = rows.sort()
    return rows, columns[order]


def _equal_pairs(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (i, j) of all pairs with left[i] == right[j], by i: by sorting, not by comparing every pair."""
    ordered, order = right.sort()
    first, last = (torch.searchsorted(ordered, left, right=end) for end in (False, True))
    counts = last - first
    i = torch.arange(len(left), device=left.device).repeat_interleave(counts)
    within = torch.arange(len(i), device=left.device) - (counts.cumsum(0) - counts)[i]
    return i, order[first[i] + within]

"""Softmax over a catalogue: in full without ever holding all logits, and sampled with its correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

Correction: TypeAlias = Literal["corrected", "classic", "none"]

_LOGITS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 27}
"""On a CPU, 4 MiB of logits stay in cache from the product to the gradient."""

_NEVER = -1e9
"""A logit whose share is zero; finite, so that a row whose columns are all masked still has a gradient."""


def full_softmax(
    users: Tensor, items: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, bf16: bool = False
) -> Tensor:
    """Mean cross-entropy of targets under softmax(users · itemsᵀ) over all N items.

    The gradient is taken on the way forward, slice by slice, so that logits are computed once and R × N of them
    are never in memory.

    Args:
        users: (R, d), already divided by the temperature.
        items: (N, d).
        targets: (R,) rows of `items`.
        label_smoothing: share of the label spread evenly over all items.
        bf16: compute the products in bfloat16, about three times as fast where the processor has it.

    Returns:
        A scalar.
    """
    return cast(Tensor, _FullSoftmax.apply(users, items, targets, label_smoothing, bf16))  # type: ignore[no-untyped-call]


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor, smoothing: float, bf16: bool) -> Tensor:
        kind = torch.bfloat16 if bf16 else users.dtype
        table = items.to(kind)
        grad_users, grad_items = torch.empty_like(users), torch.zeros_like(items)
        total = users.new_zeros(())
        at_once = max(1, _LOGITS_AT_ONCE.get(users.device.type, 1 << 20) // len(items))
        for start in range(0, len(users), at_once):
            part = slice(start, start + at_once)
            vectors, target = users[part].to(kind), targets[part, None]
            logits = vectors @ table.T
            slope = torch.softmax(logits, dim=1)
            log_share = slope.gather(1, target).to(users.dtype).clamp(min=torch.finfo(users.dtype).tiny).log()
            total -= log_share.sum()
            if smoothing:
                log_norm = logits.gather(1, target).to(users.dtype) - log_share
                total += smoothing * (log_norm + log_share).sum()
                total -= smoothing * logits.mean(dim=1, dtype=users.dtype).sum()
                slope -= smoothing / len(items)
            slope.scatter_add_(1, target, slope.new_full(target.shape, smoothing - 1.0))
            grad_users[part] = slope @ table
            grad_items += slope.T @ vectors
        ctx.save_for_backward(grad_users, grad_items)
        ctx.rows = len(users)
        return total / len(users)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_users, grad_items = ctx.saved_tensors
        scale = upstream[0] / ctx.rows
        return grad_users * scale, grad_items * scale, None, None, None


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
    bf16: bool = False,
) -> Tensor:
    """Mean cross-entropy of the positive among sampled negatives.

    "corrected" is the form to which Khrylchenko et al. 2025 reduces: [f_pos ; f_i - log E_i], columns equal to the
    row's positive masked, the positive itself uncorrected; its gradient's bias decays with the number of negatives.
    "classic" (Yi et al. 2019) subtracts from the positive too and keeps accidental hits. "none" corrects nothing
    and keeps hits, so popular items, which are drawn often, are pushed down too far.

    All three take the columns for draws that know nothing of the row. Targets of the row's own sequence are no such
    draws (they are what this very user chose, and far more frequent here than E_i says): they are no columns of it.

    Args:
        users: (R, d), already divided by the temperature.
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
    loss = _SampledSoftmax.apply(users, positives, negatives, offset, subtracted, _by_row(masked), bf16)  # type: ignore[no-untyped-call]
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
        bf16: bool,
    ) -> Tensor:
        kind = torch.bfloat16 if bf16 else users.dtype
        table = negatives.to(kind)
        positive = (users * positives).sum(dim=1)
        if positive_offset is not None:
            positive -= positive_offset
        offset = offset.to(users.dtype)
        masked_rows, masked_columns = masked
        grad_users, grad_negatives = torch.empty_like(users), torch.zeros_like(negatives)
        own_share = torch.empty_like(positive)
        count = len(negatives)
        at_once = max(1, _LOGITS_AT_ONCE.get(users.device.type, 1 << 20) // count)
        logits = users.new_empty((min(at_once, len(users)), count + 1))  # the positive is the last column
        for start in range(0, len(users), at_once):
            part = slice(start, start + at_once)
            vectors = users[part].to(kind)
            block = logits[: len(vectors)]
            torch.sub(vectors @ table.T, offset, out=block[:, :count])
            low, high = torch.searchsorted(masked_rows, masked_rows.new_tensor([start, start + at_once])).tolist()
            block[masked_rows[low:high] - start, masked_columns[low:high]] = _NEVER
            block[:, count] = positive[part]
            share = torch.softmax(block, dim=1)
            own_share[part] = share[:, count]
            slope = share[:, :count].to(kind)
            grad_users[part] = slope @ table
            grad_negatives += slope.T @ vectors
        pull = (own_share - 1.0)[:, None]
        ctx.save_for_backward(grad_users.addcmul_(pull, positives), pull * users, grad_negatives)
        return -own_share.clamp_(min=torch.finfo(users.dtype).tiny).log_().mean()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors
        scale = upstream[0] / len(grads[0])
        return (*(grad * scale for grad in grads), None, None, None, None)


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

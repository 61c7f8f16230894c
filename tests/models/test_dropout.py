"""Dropout by bytes keeps what torch's dropout promises."""

from __future__ import annotations

import torch

from recsys.models.layers.dropout import Dropout


def test_the_mean_is_kept_and_the_rate_is_met() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.25)(torch.ones(200, 501))
    assert abs((dropped == 0).float().mean().item() - 0.25) < 0.005
    assert abs(dropped.mean().item() - 1.0) < 0.01


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero() -> None:
    x = torch.randn(3, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_gradients_pass_where_values_passed() -> None:
    x = torch.ones(64, requires_grad=True)
    dropped = Dropout(0.5)(x)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_the_same_seed_drops_the_same() -> None:
    torch.manual_seed(3)
    first = Dropout(0.3)(torch.ones(100))
    torch.manual_seed(3)
    assert torch.equal(first, Dropout(0.3)(torch.ones(100)))

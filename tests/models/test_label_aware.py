"""Label-aware attention: the more power, the more the interest that suits the target is alone."""

from __future__ import annotations

import torch

from recsys.models.losses.label_aware import label_aware

USERS = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
TARGET = torch.tensor([[0.5, 0.2]])


def test_without_a_power_it_is_the_interest_with_the_greatest_product() -> None:
    assert torch.equal(label_aware(USERS, TARGET), USERS[:, 0])


def test_shares_are_the_softmax_of_the_products_times_the_power() -> None:
    shares = torch.softmax(2.0 * torch.tensor([0.5, 0.2, -0.5]), dim=0)
    assert torch.allclose(label_aware(USERS, TARGET, 2.0), (shares[:, None] * USERS[0]).sum(dim=0)[None])


def test_an_interest_that_points_away_never_wins_by_an_even_power() -> None:
    away = torch.tensor([[[-0.9], [0.5]]])
    assert label_aware(away, torch.tensor([[1.0]]), 2.0).item() > 0.3
    assert label_aware(away, torch.tensor([[1.0]]), 100.0).item() > 0.499


def test_an_interest_that_stands_in_for_none_has_no_share() -> None:
    repeated = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    assert torch.allclose(label_aware(repeated, TARGET, 2.0), label_aware(USERS[:, :2], TARGET, 2.0))


def test_the_gradient_reaches_the_shares_too() -> None:
    users = USERS.clone().requires_grad_()
    label_aware(users, TARGET, 2.0).sum().backward()
    assert users.grad is not None
    assert (users.grad.abs().sum(dim=2) > 0).all()

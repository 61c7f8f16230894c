"""SENet re-weights fields: it starts neutral and can learn which field matters."""

from __future__ import annotations

import torch

from recsys.models.layers.senet import SENet


def test_every_weight_starts_at_exactly_one() -> None:
    fields = torch.randn(5, 7, 4)
    senet = SENet(7)
    assert torch.equal(senet.weights(fields), torch.ones(5, 7))
    assert torch.equal(senet(fields), fields)


def test_the_bottleneck_has_a_third_of_the_fields_and_at_least_one_unit() -> None:
    assert SENet(9).squeeze.weight.shape == (3, 9)
    assert SENet(2).squeeze.weight.shape == (1, 2)


def test_weights_stay_between_zero_and_two_and_no_field_is_shut_for_good() -> None:
    senet = SENet(3)
    torch.nn.init.normal_(senet.excite.weight, std=3.0)
    fields = torch.randn(100, 3, 4, requires_grad=True)
    weights = senet.weights(fields)
    assert ((weights > 0) & (weights < 2)).all()
    weights.sum().backward()
    assert senet.excite.weight.grad is not None
    assert (senet.excite.weight.grad.abs().sum(dim=1) > 0).all()


def test_a_field_that_carries_the_signal_ends_up_heavier_than_one_of_noise() -> None:
    torch.manual_seed(0)
    senet = SENet(2)
    optimiser = torch.optim.Adam(senet.parameters(), lr=0.05)
    for _ in range(150):
        # Positive means, so that the bottleneck's ReLU lets both fields speak.
        signal, noise = torch.rand(64, 4) + 0.5, torch.rand(64, 4) + 0.5
        mixed = senet(torch.stack([signal, noise], dim=1)).sum(dim=1)
        loss = (mixed - 1.5 * signal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    weights = senet.weights(torch.stack([signal, noise], dim=1)).mean(dim=0)
    assert weights[0] > weights[1] + 0.3


def test_the_gate_sees_fields_at_unit_scale_however_small_their_embeddings_are() -> None:
    senet = SENet(4)
    torch.nn.init.normal_(senet.excite.weight)
    fields = torch.randn(50, 4, 16)
    assert torch.allclose(senet.weights(fields * 0.02), senet.weights(fields), atol=0.02)
    assert (senet.weights(fields * 0.02) - 1).abs().max() > 0.02
    assert torch.isfinite(senet.weights(torch.zeros(1, 4, 16))).all()

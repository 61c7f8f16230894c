"""Interest capsules: planted tastes are found, whatever the order and the padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from recsys.models.layers.capsules import InterestCapsules, squash

DIM = 16


def capsules(interests: int = 4, **settings: object) -> InterestCapsules:
    torch.manual_seed(0)
    return InterestCapsules(DIM, interests, **settings)  # type: ignore[arg-type]


def everything(made: InterestCapsules, behaviours: Tensor) -> Tensor:
    """(B, K, d) interests of whole histories (B, L, d), all behaviours alike."""
    count = behaviours.shape[1]
    found, _ = made(behaviours, torch.ones(1, 1, count), torch.tensor([[count]]))
    interests: Tensor = found[:, 0]
    return interests


def two_tastes(draws: int, generator: torch.Generator, length: int) -> tuple[Tensor, Tensor]:
    """(draws, 2, d) unit directions at right angles, and (draws, length, d) behaviours near the one or the other."""
    directions = torch.linalg.qr(torch.randn(draws, DIM, 2, generator=generator)).Q.transpose(1, 2)
    taste = torch.arange(length) % 2
    behaviours = directions[:, taste] + 0.05 * torch.randn(draws, length, DIM, generator=generator)
    return directions, behaviours


@pytest.mark.parametrize("length", [4, 10])
def test_two_planted_tastes_become_two_interests_each_nearest_its_own(length: int) -> None:
    """Over 500 draws of the tastes; the shared map is what training starts from."""
    generator = torch.Generator().manual_seed(1)
    made = capsules(interests=2)
    directions, behaviours = two_tastes(500, generator, length)
    with torch.no_grad():
        mapped = F.normalize(made.shared(directions), dim=-1)
        found = F.normalize(everything(made, behaviours), dim=-1)
    nearest = (found @ mapped.transpose(1, 2)).argmax(dim=2)
    apart = (nearest[:, 0] != nearest[:, 1]).double().mean().item()
    assert apart >= 0.98


def test_replacing_the_logits_by_cosines_tells_tastes_apart_more_often_than_the_papers_sum() -> None:
    generator = torch.Generator().manual_seed(2)
    _, behaviours = two_tastes(500, generator, 10)
    alike = {}
    for routing in ("cosine", "accumulate"):
        made = capsules(interests=2, routing=routing)
        with torch.no_grad():
            found = F.normalize(everything(made, 0.3 * behaviours), dim=-1)
        alike[routing] = (found[:, 0] * found[:, 1]).sum(dim=1).mean().item()
    assert alike["cosine"] < alike["accumulate"] - 0.3


@given(length=st.integers(1, 12), padding=st.integers(0, 5), seed=st.integers(0, 1000))
def test_order_and_padding_change_nothing(length: int, padding: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    made = capsules()
    behaviours = torch.randn(1, length, DIM, generator=generator)
    counts = torch.rand(1, 1, length, generator=generator) + 0.1
    order = torch.randperm(length + padding, generator=generator)
    padded = torch.cat([behaviours, torch.randn(1, padding, DIM, generator=generator)], dim=1)[:, order]
    weighed = torch.cat([counts, torch.zeros(1, 1, padding)], dim=2)[:, :, order]
    lengths = torch.tensor([[length]])
    plain, there = made(behaviours, counts, lengths)
    other, still_there = made(padded, weighed, lengths)
    assert torch.equal(there, still_there)
    assert torch.allclose(plain, other, atol=1e-5)


def test_a_history_has_the_binary_logarithm_of_its_length_of_interests() -> None:
    made = capsules(interests=4)
    behaviours = torch.randn(1, 40, DIM)
    lengths = torch.arange(41)
    counts = (torch.arange(40) < lengths[:, None]).float()[None]
    found, there = made(behaviours, counts, lengths[None])
    expected = [max(1, min(4, math.floor(math.log2(max(1, n))))) for n in range(41)]
    assert there.sum(dim=2)[0].tolist() == expected
    assert torch.equal(found.norm(dim=-1)[0, 1:] > 0, there[0, 1:])


def test_interests_that_are_not_there_take_nothing_from_the_others() -> None:
    """Three behaviours have one interest whatever K: all of each behaviour goes to it."""
    behaviours = torch.randn(1, 3, DIM)
    one, four = capsules(interests=1), capsules(interests=4)
    with torch.no_grad():
        assert torch.allclose(everything(one, behaviours)[:, 0], everything(four, behaviours)[:, 0], atol=1e-6)
        assert torch.allclose(everything(one, behaviours)[:, 0], squash(one.shared(behaviours).sum(dim=1)), atol=1e-6)


def test_places_that_see_a_part_get_what_that_part_alone_gives() -> None:
    made = capsules()
    behaviours = torch.randn(2, 9, DIM)
    lengths = torch.arange(10)
    counts = (torch.arange(9) < lengths[:, None]).float()[None]
    with torch.no_grad():
        together, _ = made(behaviours, counts, lengths[None])
        for n in range(1, 10):
            assert torch.allclose(together[:, n], everything(made, behaviours[:, :n]), atol=1e-5)
    assert torch.equal(together[:, 0], torch.zeros(2, 4, DIM))


def test_squash_keeps_the_direction_and_shortens_below_one() -> None:
    z = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.1, 0.0]])
    squashed = squash(z)
    assert torch.allclose(squashed[0], torch.tensor([0.6, 0.8]) * 25 / 26)
    assert torch.equal(squashed[1], torch.zeros(2))
    assert torch.allclose(squashed[2], torch.tensor([0.01 / 1.01, 0.0]))


def test_the_gradient_goes_through_the_last_iteration_alone() -> None:
    """With the routing weights that it ended with held fixed, the gradient is the same."""
    made = capsules(interests=2)
    behaviours = torch.randn(1, 8, DIM, requires_grad=True)
    interests = everything(made, behaviours)
    (through,) = torch.autograd.grad(interests.square().sum(), behaviours)
    with torch.no_grad():
        mapped = made.shared(behaviours)
        unit = F.normalize(mapped, dim=-1)
        logits = made.directions @ unit.transpose(1, 2)
        for _ in range(2):
            found = squash(torch.softmax(logits, dim=1) @ mapped)
            logits = 20.0 * F.normalize(found, dim=-1) @ unit.transpose(1, 2)
        weights = torch.softmax(logits, dim=1)
    fixed = squash(weights @ made.shared(behaviours))
    assert torch.allclose(interests, fixed, atol=1e-6)
    assert torch.allclose(through, torch.autograd.grad(fixed.square().sum(), behaviours)[0], atol=1e-6)

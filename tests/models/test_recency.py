"""Profiles of recency: means of a history that weigh ages as learned, whatever the order and the padding."""

from __future__ import annotations

import pytest
import torch

from recsys.models.layers.recency import RecencyEncoder, RecencyMixer, RecencyProfiles, prefix_ages

DIM, LENGTH, PROFILES = 8, 12, 3


def profiles() -> RecencyProfiles:
    torch.manual_seed(0)
    made = RecencyProfiles(DIM, LENGTH, PROFILES)
    with torch.no_grad():
        made.weight.normal_()
    return made


def test_a_mean_weighs_the_ages_that_are_there_by_the_softmax_of_the_profile() -> None:
    made, vectors = profiles(), torch.randn(1, 4, DIM)
    age = torch.tensor([[[0, 3, 1, 7]]])
    means = made(vectors, age).view(PROFILES, DIM)
    for h in range(PROFILES):
        shares = torch.softmax(made.weight[[3, 1, 7], h], dim=0)
        assert torch.allclose(means[h], shares @ vectors[0, 1:], atol=1e-6)


def test_profiles_start_from_the_newest_alone_to_hundreds_alike() -> None:
    shares = torch.softmax(RecencyProfiles(DIM, 200, 4).weight[1:], dim=0)
    assert shares[0, 0] > 0.8
    assert shares[0, 3] < 0.02
    assert (shares[:-1] >= shares[1:]).all()


@pytest.mark.parametrize("padding", [0, 3])
def test_order_and_padding_change_nothing(padding: int) -> None:
    made, vectors = profiles(), torch.randn(2, 6, DIM)
    age = torch.arange(6, 0, -1).expand(2, 1, 6)
    order = torch.randperm(6 + padding)
    padded = torch.cat([vectors, torch.randn(2, padding, DIM)], dim=1)[:, order]
    ages = torch.cat([age, torch.zeros(2, 1, padding, dtype=torch.long)], dim=2)[:, :, order]
    assert torch.allclose(made(vectors, age), made(padded, ages), atol=1e-6)


def test_an_empty_history_is_the_start_vector_in_every_profile() -> None:
    made = profiles()
    nothing = made(torch.randn(1, 2, DIM), torch.zeros(1, 1, 2, dtype=torch.long))
    assert torch.equal(nothing[0, 0], made.start.repeat(PROFILES))


def test_ages_after_prefixes_count_from_the_newest_seen() -> None:
    assert prefix_ages(torch.tensor([0, 2, 3]), 3).tolist() == [[[0, 0, 0], [2, 1, 0], [3, 2, 1]]]


def test_a_mixer_starts_near_four_times_the_mean_of_the_means_whatever_else_is_known() -> None:
    torch.manual_seed(0)
    mixer = RecencyMixer(64, PROFILES, (5,), 2, 0.0)
    means, other = torch.randn(10, PROFILES, 64), torch.randn(10, 5)
    mixed = mixer(means.flatten(1), other)
    assert torch.allclose(mixed, 4.0 * means.mean(dim=1), atol=1.5)
    assert torch.equal(mixed, mixer(means.flatten(1), torch.zeros(10, 5)))


@pytest.mark.parametrize("n", [0, 1, 5, LENGTH])
def test_an_encoder_serves_the_state_that_it_is_trained_on(n: int) -> None:
    torch.manual_seed(0)
    encoder = RecencyEncoder(DIM, LENGTH, PROFILES, widening=2, dropout=0.3).eval()
    for parameter in encoder.mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vectors = torch.randn(1, LENGTH, DIM)
    trained = encoder.states(vectors)[:, n]
    age = torch.cat([torch.zeros(LENGTH - n, dtype=torch.int32), torch.arange(n, 0, -1, dtype=torch.int32)])[None]
    served = encoder.last(torch.cat([torch.zeros(1, LENGTH - n, DIM), vectors[:, :n]], dim=1), age)
    assert torch.allclose(trained, served, atol=1e-5)

"""History encoders: causal, indifferent to padding, the same in training and in serving."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recsys.models.layers.attention import CausalMix, Rotation
from recsys.models.layers.sequence import CausalAttention, MeanPooling, Positions

DIM, LENGTH = 8, 12


ORDERS: dict[str, tuple[Positions, int]] = {
    "absolute": ("absolute", 0),
    "rotary": ("rotary", 0),
    "convolution": ("none", 2),
    "rotary and convolution": ("rotary", 3),
}


def attention(positions: Positions, convolution: int) -> CausalAttention:
    return CausalAttention(DIM, LENGTH, blocks=2, heads=2, dropout=0.3, positions=positions, convolution=convolution)


@pytest.fixture(params=[*ORDERS, "mean"])
def encoder(request: pytest.FixtureRequest) -> CausalAttention | MeanPooling:
    torch.manual_seed(0)
    made = MeanPooling(DIM) if request.param == "mean" else attention(*ORDERS[request.param])
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made.eval()


def left_padded(vectors: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """One history (n, d) as a batch of one, padded on the left to `length`, with its ages."""
    n = len(vectors)
    padded = torch.cat([torch.zeros(length - n, DIM), vectors])
    age = torch.cat([torch.zeros(length - n, dtype=torch.int32), torch.arange(n, 0, -1, dtype=torch.int32)])
    return padded[None], age[None]


def test_a_later_item_changes_no_earlier_state(encoder: CausalAttention | MeanPooling) -> None:
    vectors = torch.randn(2, 6, DIM)
    changed = vectors.clone()
    changed[:, 4:] = torch.randn(2, 2, DIM)
    before, after = encoder.states(vectors), encoder.states(changed)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


@pytest.mark.parametrize("n", [0, 1, 2, 7, LENGTH])
def test_left_padding_right_padding_and_no_padding_give_the_same_state(
    encoder: CausalAttention | MeanPooling, n: int
) -> None:
    vectors = torch.randn(n, DIM)
    bare = encoder.states(vectors[None])[0, n]
    right = encoder.states(torch.cat([vectors, torch.randn(LENGTH - n, DIM)])[None])[0, n]
    left = encoder.last(*left_padded(vectors, LENGTH))[0]
    tight = encoder.last(*left_padded(vectors, max(n, 1)))[0]
    for state in (right, left, tight):
        assert torch.allclose(bare, state, atol=1e-5)


def test_one_pass_gives_the_state_after_every_prefix(encoder: CausalAttention | MeanPooling) -> None:
    vectors = torch.randn(5, DIM)
    states = encoder.states(vectors[None])[0]
    for n in range(6):
        assert torch.allclose(states[n], encoder.last(*left_padded(vectors[:n], 5))[0], atol=1e-5)


def test_users_of_one_batch_do_not_see_each_other(encoder: CausalAttention | MeanPooling) -> None:
    short, long = torch.randn(2, DIM), torch.randn(6, DIM)
    first, second = left_padded(short, 6), left_padded(long, 6)
    together = encoder.last(torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]))
    assert torch.allclose(together[0], encoder.last(*first)[0], atol=1e-5)
    assert torch.allclose(together[1], encoder.last(*second)[0], atol=1e-5)


def test_the_mean_is_the_mean() -> None:
    vectors = torch.randn(1, 3, DIM)
    assert torch.allclose(MeanPooling(DIM).states(vectors)[0, 3], vectors[0].mean(dim=0), atol=1e-6)


def test_attention_tells_orders_apart_and_the_mean_does_not(encoder: CausalAttention | MeanPooling) -> None:
    vectors = torch.randn(1, 4, DIM)
    swapped = vectors[:, [1, 0, 2, 3]]
    same = torch.allclose(encoder.states(vectors)[0, 4], encoder.states(swapped)[0, 4], atol=1e-4)
    assert same == isinstance(encoder, MeanPooling)


def test_rotated_scores_know_only_how_far_apart_two_places_are() -> None:
    rotation = Rotation(4, 20)
    query, key = (torch.randn(4).expand(1, 1, 3, 4) for _ in range(2))
    place = torch.arange(3)
    near = rotation(query, place) @ rotation(key, place).transpose(-1, -2)
    later = rotation(query, place + 17) @ rotation(key, place[None] + 17).transpose(-1, -2)
    assert torch.allclose(near, later, atol=1e-5)
    assert torch.allclose(near[0, 0, 0, 1], near[0, 0, 1, 2], atol=1e-6)
    assert not torch.allclose(near[0, 0, 0, 0], near[0, 0, 0, 1], atol=1e-3)


def test_a_mix_is_the_place_and_the_weighed_ones_before_it() -> None:
    mix = CausalMix(2, 2)
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([[0.5, 0.0], [0.25, 2.0]]))
    x = torch.tensor([[[1.0, 1.0], [2.0, 3.0], [4.0, 5.0]]])
    assert mix(x).tolist() == [[[1.0, 1.0], [2.5, 3.0], [5.25, 7.0]]]


def test_without_positions_and_mix_the_order_of_what_is_not_newest_is_lost_in_one_block() -> None:
    encoder = CausalAttention(DIM, LENGTH, blocks=1, heads=2, dropout=0.0, positions="none").eval()
    vectors = torch.randn(1, 4, DIM)
    swapped = vectors[:, [1, 0, 2, 3]]
    assert torch.allclose(encoder.states(vectors)[0, 4], encoder.states(swapped)[0, 4], atol=1e-5)


def test_recomputed_blocks_give_the_same_states_and_gradients_with_dropout_on() -> None:
    found = {}
    for recompute in (False, True):
        torch.manual_seed(0)
        encoder = CausalAttention(DIM, LENGTH, blocks=2, heads=2, dropout=0.3, recompute=recompute)
        vectors = torch.randn(3, LENGTH, DIM, requires_grad=True)
        torch.manual_seed(1)
        states = encoder.states(vectors)
        states.square().sum().backward()  # type: ignore[no-untyped-call]
        assert vectors.grad is not None
        found[recompute] = [states.detach(), vectors.grad, *(p.grad for p in encoder.parameters()), torch.rand(1)]
    for kept, recomputed in zip(found[False], found[True], strict=True):
        assert torch.allclose(kept, recomputed, rtol=0, atol=1e-6)  # type: ignore[arg-type]


def test_recomputing_keeps_less_from_the_way_there_for_the_way_back() -> None:
    kept = {}
    for recompute in (False, True):
        encoder = CausalAttention(DIM, LENGTH, blocks=4, heads=2, dropout=0.3, recompute=recompute)
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            encoder.states(torch.randn(3, LENGTH, DIM))
        kept[recompute] = sum(sizes)
    assert kept[True] < kept[False] / 4

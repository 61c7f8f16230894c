"""Scores after all prefixes at once: the numbers of a plain loop over prefixes, and the gradient of their loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.index.node_attention import STEEPEST
from recsys.models import prefix_scores
from recsys.models.behaviour_pairs import LevelTable
from recsys.models.layers.node_attention import NodeAttention
from recsys.models.losses.level_loss import CandidateLoss, LevelSoftmax
from recsys.models.prefix_scores import LevelNodes, Prefixes, level_loss, level_scores

NODES, DIM, ATTENDED, LENGTH = 9, 6, 4, 11


class World:
    """Three sequences; the second asks nothing, of the third every other prefix, and some behaviours are unknown."""

    def __init__(self, *, alike: bool = False) -> None:
        torch.manual_seed(0)
        self.attention = NodeAttention(DIM, ATTENDED, cap=1.5).double()
        for parameter in self.attention.parameters():
            torch.nn.init.normal_(parameter, std=0.8)
        asked = torch.zeros(3, LENGTH + 1, dtype=torch.bool)
        asked[0, :10] = True
        asked[2, 1::2] = True
        if alike:  # beside one that asks nothing, some that stop early or begin late, and one with a gap
            asked = torch.zeros(6, LENGTH + 1, dtype=torch.bool)
            asked[0, [0, 2, 3, 7]] = True
            asked[2, [2, 3]] = True
            asked[3, [0, 2, 3, 7, 8]] = True
            asked[4, [2, 7]] = True
            asked[5, [1, 2, 7]] = True
        self.prefixes = Prefixes.of(asked, ATTENDED)
        history = torch.randint(0, NODES, (len(asked), LENGTH))
        history[0, 3], history[2, :3] = -1, -1
        columns = [torch.tensor([4, 0, 7]), torch.tensor([1]), torch.tensor([8, 2, 3, 5, 0])]
        self.nodes = LevelNodes(columns, history)
        self.vectors = torch.randn(NODES, DIM + 1, dtype=torch.double, requires_grad=True)
        self.users = torch.randn(len(self.prefixes), DIM + 1, dtype=torch.double, requires_grad=True)

    def table(self) -> LevelTable:
        return LevelTable(self.vectors, *self.attention.sides(self.vectors[:, :DIM]))

    def factors(self) -> Tensor:
        return self.attention.prefix_factors(LENGTH)

    def leaves(self) -> list[Tensor]:
        return [self.users, self.vectors, *self.attention.parameters()]

    def scores_one_by_one(self) -> Iterator[Tensor]:
        """(M,) scores of each row, out of its own behaviours alone."""
        for user, b, length in zip(self.users, self.prefixes.sequence, self.prefixes.length, strict=True):
            nodes = self.vectors[self.nodes.columns[int(b)]]
            newest = self.nodes.history[b, max(0, length - ATTENDED) : length].flip(0)
            logits, gains = [], []
            for age, place in enumerate(newest.tolist()):
                if place >= 0:
                    h = self.vectors[place, :DIM]
                    score = nodes[:, :DIM] @ (self.attention.key @ h)
                    logits.append(1.5 * torch.tanh(score / 1.5) + self.attention.age_weight[age])
                    gains.append(nodes[:, :DIM] @ (self.attention.value @ h))
            added = (torch.stack(logits).softmax(0) * torch.stack(gains)).sum(0) if logits else 0.0
            yield nodes @ user + added


def together(world: World, slope: Callable[[Tensor, int], Tensor]) -> Tensor:
    return level_loss(world.users, world.table(), world.factors(), world.prefixes, world.nodes, 1.5, slope)


def same_gradients(world: World, loss: Tensor, expected: Tensor) -> None:
    """The function computes in single precision whatever it is given."""
    assert torch.allclose(loss.double(), expected, rtol=1e-5)
    found = torch.autograd.grad(loss, world.leaves())
    for ours, theirs in zip(found, torch.autograd.grad(expected, world.leaves()), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5), (ours - theirs).abs().max()


def test_all_prefixes_at_once_score_what_each_scores_alone() -> None:
    world = World()
    one_by_one = list(world.scores_one_by_one())
    rows = 0
    for b, scores in level_scores(world.users, world.table(), world.factors(), world.prefixes, world.nodes, 1.5):
        expected = torch.stack(one_by_one[world.prefixes.bounds[b] : world.prefixes.bounds[b + 1]])
        assert torch.allclose(scores.double(), expected, atol=1e-5)
        rows += len(scores)
    assert rows == len(one_by_one) == len(world.prefixes)


@pytest.mark.parametrize("repeated", [0.0, 1e9])
def test_scores_are_of_single_precision_whatever_autocast_does(
    repeated: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_scores, "_REPEATED", repeated)
    world = World(alike=True)
    world.nodes = LevelNodes([torch.tensor([3, 6, 1])] * 6, world.nodes.history, shared=True)
    given = world.users, world.table(), world.factors(), world.prefixes, world.nodes, 1.5
    plain = [scores for _, scores in level_scores(*given)]
    with torch.autocast("cpu", torch.bfloat16):
        cast = []
        for _, scores in level_scores(*given):
            cast.append(scores)
            assert torch.is_autocast_enabled("cpu")  # where scores are asked for it stays as it was
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(cast, plain, strict=True))


@pytest.mark.parametrize("repeated", [0.0, 1e9])
@pytest.mark.parametrize("at_once", [1, 30, 1 << 20])
def test_columns_that_all_share_score_the_same_however_they_are_computed(
    repeated: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_scores, "_REPEATED", repeated)
    monkeypatch.setattr(prefix_scores, "_PAIRS_AT_ONCE", at_once)
    world = World(alike=True)
    world.nodes = LevelNodes([torch.tensor([3, 6, 1])] * 6, world.nodes.history, shared=True)
    assert world.prefixes.alike == [([0, 2, 3], [0, 2, 3, 7, 8]), ([4, 5], [1, 2, 7])]
    positive = torch.arange(len(world.prefixes)) % 3
    one_by_one = list(world.scores_one_by_one())
    expected = F.cross_entropy(torch.stack(one_by_one), positive, reduction="sum")
    same_gradients(world, together(world, LevelSoftmax(world.prefixes.bounds, positive)), expected)
    found = level_scores(world.users, world.table(), world.factors(), world.prefixes, world.nodes, 1.5)
    for row, scores in zip(one_by_one, [row for _, block in found for row in block], strict=True):
        assert torch.allclose(scores.double(), row, atol=1e-5)


@pytest.mark.parametrize("repeated", [0.0, 1e9])
def test_a_level_of_one_node_has_scores_and_gradients_too(repeated: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_scores, "_REPEATED", repeated)
    world = World(alike=True)
    world.nodes = LevelNodes([torch.tensor([3])] * 6, world.nodes.history, shared=True)
    everything = torch.zeros(len(world.prefixes), 1, dtype=torch.long)
    expected = F.binary_cross_entropy_with_logits(
        torch.stack(list(world.scores_one_by_one())), torch.ones(len(everything), 1).double(), reduction="sum"
    )
    slope = CandidateLoss(world.prefixes.bounds, everything, everything[:, 0], torch.tensor(0.0))
    same_gradients(world, together(world, slope), expected)


def test_behaviours_that_nodes_like_least_have_their_shares_under_the_steepest_cap() -> None:
    """All shares are e^-40 times those of ages."""
    torch.manual_seed(0)
    attention, vectors = NodeAttention(DIM, LENGTH, STEEPEST), torch.ones(NODES, DIM)
    table = LevelTable(vectors, -100.0 * vectors, torch.randn(NODES, DIM))
    torch.nn.init.uniform_(attention.age_weight, -5.0, 0.0)
    asked = torch.zeros(1, LENGTH + 1, dtype=torch.bool)
    asked[0, LENGTH] = True
    history = torch.randint(0, NODES, (1, LENGTH))
    nodes = LevelNodes([torch.arange(NODES)], history, shared=True)
    factors = attention.prefix_factors(LENGTH).detach()
    ((_, scores),) = level_scores(torch.zeros(1, DIM), table, factors, Prefixes.of(asked, LENGTH), nodes, STEEPEST)
    expected = attention.age_weight.flip(0).softmax(0) @ table.values[history[0]].sum(dim=1)
    assert torch.allclose(scores[0], expected.expand(NODES), rtol=1e-4)


@pytest.mark.parametrize("attended", [1, 3, 40])
def test_bands_hold_every_pair_that_counts(attended: int) -> None:
    asked = torch.rand(1, 30, generator=torch.Generator().manual_seed(attended)) < 0.6
    prefixes = Prefixes.of(asked, attended)
    places = prefixes.length.tolist()
    covered = torch.zeros(len(places), 29, dtype=torch.bool)
    for here, of in prefixes.bands(places):
        assert not covered[here, of].any()
        covered[here, of] = True
    for row, length in enumerate(places):
        assert covered[row, max(0, length - attended) : length].all()


def test_the_softmax_of_weighted_columns_has_the_gradient_of_a_plain_one() -> None:
    world = World()
    world.nodes = LevelNodes([columns[:3] for columns in world.nodes.columns], world.nodes.history)
    positive = torch.tensor([row % len(world.nodes.columns[int(b)]) for row, b in enumerate(world.prefixes.sequence)])
    log_weight = torch.linspace(0, 2, 3)
    had = [torch.randint(0, LENGTH, (len(columns),)) for columns in world.nodes.columns]
    expected = torch.zeros((), dtype=torch.double)
    for row, scores in enumerate(world.scores_one_by_one()):
        b = int(world.prefixes.sequence[row])
        told = had[b] >= world.prefixes.length[row]
        told[positive[row]] = True
        logits = (scores + log_weight).masked_fill(~told, -torch.inf)
        expected = expected + F.cross_entropy(logits, positive[row])
    slope = LevelSoftmax(world.prefixes.bounds, positive, log_weight, had, world.prefixes.length)
    same_gradients(world, together(world, slope), expected)


def test_the_loss_of_candidates_is_the_binary_cross_entropy_of_those_alone() -> None:
    world = World()
    counts = [len(world.nodes.columns[int(b)]) for b in world.prefixes.sequence]
    rows = torch.arange(len(counts))
    candidates = torch.tensor([[row % count, count] for row, count in enumerate(counts)])
    candidates[1::3, 1] = torch.tensor([(row + 1) % count for row, count in enumerate(counts)])[1::3]
    hit = torch.tensor(counts)
    hit[::2] = candidates[::2, 0]
    hit[3] = (candidates[3, 0] + 2) % counts[3]  # no candidate: it counts for nothing
    expected = torch.zeros((), dtype=torch.double)
    for row, scores in zip(rows.tolist(), world.scores_one_by_one(), strict=True):
        own = candidates[row][candidates[row] < counts[row]]
        expected = expected + F.binary_cross_entropy_with_logits(
            scores[own] - 0.7, (own == hit[row]).double(), reduction="sum"
        )
    slope = CandidateLoss(world.prefixes.bounds, candidates, hit, torch.tensor(0.7))
    same_gradients(world, together(world, slope), expected)

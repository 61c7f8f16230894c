"""Hard negatives and remembered columns: both leave the sampled softmax an estimate of the full one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.data.interactions import Interactions
from recsys.models.item_tower import ItemShape, ItemTower
from recsys.models.losses.softmax import Correction
from recsys.models.sequence_batch import Mining, Negatives, SequenceBatch
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.train.batches import SequenceSampling, SequenceSource, share_of
from recsys.train.config import TrainerConfig
from recsys.train.frequency import CountedFrequency
from recsys.train.hard_negatives import HardNegatives
from recsys.train.negative_memory import NegativeMemory
from recsys.train.objective import NextItemObjective
from recsys.train.progress import QuietProgress
from recsys.train.trainer import Trainer
from recsys.types import offsets_of

N = 8
NO_MINING = Mining(torch.zeros(0, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long))


class Table(nn.Module):
    """Items that are their vectors."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    def forward(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        vectors = self.vectors if rows is None else self.vectors[rows]
        return vectors, vectors

    def catalogue_vectors(self) -> Tensor:
        return self.vectors.detach()


class Users(nn.Module):
    """As little of a retriever as an objective asks for: every sequence has one place, and a vector of its own."""

    device = "cpu"
    credit = "max"

    def __init__(self, users: Tensor, items: Tensor) -> None:
        super().__init__()
        self.users, self.items = nn.Parameter(users), Table(items)

    def user_states(self, history: Tensor, user: dict[str, Tensor], places: Tensor | None = None) -> Tensor:
        return self.users[:, None]

    def user_vectors(self, states: Tensor) -> Tensor:
        return states

    def for_targets(self, users: Tensor, positives: Tensor) -> Tensor:
        return users

    def logit_scale(self) -> Tensor:
        return torch.ones(())


@dataclass
class World:
    """Rows of every positive under several laws of taste, in double precision, and the full softmax's gradients."""

    model: Users
    targets: Tensor
    q: Tensor

    def full_gradients(self) -> list[Tensor]:
        loss = NextItemObjective(self.model, CountedFrequency(self.q))(self.batch(None))  # type: ignore[arg-type]
        return list(torch.autograd.grad(loss, (self.model.users, self.model.items.vectors)))

    def batch(self, negatives: Negatives | None) -> SequenceBatch:
        history = torch.zeros(len(self.targets), 0, dtype=torch.long)
        return SequenceBatch(history, self.targets[:, None], negatives=negatives, samples=len(self.targets))


def world(seed: int = 0) -> World:
    generator = torch.Generator().manual_seed(seed)
    q = 0.7 ** torch.arange(N, dtype=torch.float64)
    users = torch.randn(2, 5, dtype=torch.float64, generator=generator).repeat_interleave(N, dim=0)
    items = torch.randn(N, 5, dtype=torch.float64, generator=generator)
    return World(Users(users, items), torch.arange(N).repeat(2), q / q.sum())


def drawn(rows: Tensor, mining: Mining | None = None) -> Negatives:
    return Negatives(rows, torch.full_like(rows, -1), float(len(rows)), 0, mining)


class Found:
    """Hard negatives that are told, not looked up."""

    def __init__(self, rows: list[int]) -> None:
        self.found = torch.tensor(rows, dtype=torch.long)

    def rows(self, users: Tensor, batch: SequenceBatch, mining: Mining) -> Tensor:
        return self.found


def expected_gradients(of: World, columns: int, hard: list[int], correction: Correction = "corrected") -> list[Tensor]:
    """E over all N ** columns draws by q, exactly, of the gradients for users and items."""
    told = Found(hard) if hard else None
    objective = NextItemObjective(of.model, CountedFrequency(of.q), correction, hard=told)  # type: ignore[arg-type]
    total = torch.zeros((), dtype=torch.float64)
    for rows in itertools.product(range(N), repeat=columns):
        chance = of.q[list(rows)].prod()
        total = total + chance * objective(of.batch(drawn(torch.tensor(rows), NO_MINING)))
    return list(torch.autograd.grad(total, (of.model.users, of.model.items.vectors)))


def bias(found: list[Tensor], full: list[Tensor]) -> list[float]:
    """Relative to the full gradient, for users and for items."""
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, full, strict=True)]


def test_hard_negatives_that_are_the_whole_catalogue_make_the_full_softmax() -> None:
    of = world()
    everything = expected_gradients(of, 1, list(range(N)))
    assert bias(everything, of.full_gradients()) == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("hard", [[], [0], [7], [1, 3, 5], [4, 5, 6, 7]])
def test_the_sum_over_the_catalogue_is_estimated_without_bias_whatever_the_hard_negatives(
    hard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = world()
    told: list[tuple[Tensor, Tensor]] = []

    def sampled_softmax(users: Tensor, positives: Tensor, columns: Tensor, **more: Tensor) -> Tensor:
        told.append((users @ columns.T, more["log_expected"]))
        return torch.zeros((), dtype=torch.float64)

    monkeypatch.setattr("recsys.train.objective.sampled_softmax", sampled_softmax)
    objective = NextItemObjective(of.model, CountedFrequency(of.q), hard=Found(hard))  # type: ignore[arg-type]
    expected = torch.zeros(len(of.targets), dtype=torch.float64)
    for rows in itertools.product(range(N), repeat=2):
        objective(of.batch(drawn(torch.tensor(rows), NO_MINING)))
        logits, log_expected = told.pop()
        expected += of.q[list(rows)].prod() * (logits - log_expected).exp().sum(dim=1)
    assert torch.allclose(expected, (of.model.users @ of.model.items.vectors.T).exp().sum(dim=1))


def test_what_scores_high_taken_as_hard_lessens_the_bias_of_the_gradient() -> None:
    of = world(seed=1)
    full = of.full_gradients()
    hardest = (of.model.users @ of.model.items.vectors.T).softmax(dim=1).sum(dim=0).topk(3).indices.tolist()
    without, found, beside = (
        bias(expected_gradients(of, 2, *settings), full)
        for settings in (([], "corrected"), (hardest, "corrected"), (hardest, "none"))
    )
    assert all(a < 0.5 * b for a, b in zip(found, without, strict=True))
    assert all(a < 0.6 * b for a, b in zip(found, beside, strict=True))


@pytest.mark.parametrize("columns", [None, 3])
def test_items_that_were_not_shown_are_told_from_nothing(columns: int | None) -> None:
    """Neither they nor what is learned of the others depends on their vectors."""
    shown = torch.tensor([0, 2, 3, 6])
    found = []
    for other in (0.0, 5.0):
        of = world()
        of.targets = shown.repeat(4)
        of.model.items.vectors.data[[1, 4, 5, 7]] += other
        hard = Found(list(range(N))) if columns else None
        objective = NextItemObjective(of.model, CountedFrequency(of.q), hard=hard, shown=shown)  # type: ignore[arg-type]
        loss = objective(of.batch(drawn(shown[:columns], NO_MINING) if columns else None))
        found.append(torch.autograd.grad(loss, (of.model.users, of.model.items.vectors)))
    for one, another in zip(*found, strict=True):
        assert torch.equal(one, another)
    assert (found[0][1].abs().sum(dim=1) > 0).nonzero()[:, 0].tolist() == shown.tolist()


def mean_gradients(of: World, columns: int, remembered: int, draws: int = 400) -> list[Tensor]:
    """Of a batch with so many columns, beside batches alike that are remembered and whose vectors have not moved."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64)
    for _ in range(draws):
        memory = NegativeMemory(max(1, remembered))
        *before, rows = torch.multinomial(
            of.q, columns * (remembered + 1), replacement=True, generator=generator
        ).split(columns)
        for earlier in before:
            memory.joined(drawn(earlier), of.model.items.vectors[earlier])
        objective = NextItemObjective(of.model, CountedFrequency(of.q), memory=memory)  # type: ignore[arg-type]
        total = total + objective(of.batch(drawn(rows))) / draws
    return list(torch.autograd.grad(total, (of.model.users, of.model.items.vectors)))


def test_remembered_columns_are_worth_as_many_that_are_drawn() -> None:
    """For items too, though what is remembered has no gradient: the batch's own columns take it for all."""
    of = world()
    full = of.full_gradients()
    few, many, remembered = (bias(mean_gradients(of, *sizes), full) for sizes in ((4, 0), (16, 0), (4, 3)))
    for fewer, more, kept in zip(few, many, remembered, strict=True):
        assert kept < 0.6 * fewer
        assert kept == pytest.approx(more, rel=0.3)


def test_a_memory_holds_the_latest_batches_and_is_used_once_warm() -> None:
    memory = NegativeMemory(2, warm_up=3)
    sizes = []
    for step in range(5):
        rows = torch.full((4,), step)
        together, vectors = memory.joined(Negatives(rows, rows, 3.0, 1), torch.full((4, 2), float(step)))
        sizes.append(len(vectors))
    assert sizes == [4, 4, 4, 12, 12]
    assert together.rows.tolist() == [4] * 4 + [2] * 4 + [3] * 4
    assert together.sequences.tolist() == [4] * 4 + [-1] * 8
    assert (together.others, together.uniform) == (9.0, 3)
    assert torch.equal(vectors[:, 0], together.rows.float())


def test_a_memory_restored_goes_on_as_it_would_have() -> None:
    rows = torch.arange(3)
    kept, other = NegativeMemory(2), NegativeMemory(2)
    for step in range(3):
        kept.joined(Negatives(rows + step, rows, 2.5, 1), torch.randn(3, 2))
    other.restore(kept.tensors())
    new = (Negatives(rows, rows, 2.5, 1), torch.randn(3, 2))
    (one, vectors), (two, again) = kept.joined(*new), other.joined(*new)
    assert torch.equal(one.rows, two.rows)
    assert torch.equal(vectors, again)
    assert (one.others, one.uniform) == (two.others, two.uniform) == (7.5, 3)


def mined(items: Tensor, users: Tensor, batch: SequenceBatch, mining: Mining, **settings: int) -> list[int]:
    return HardNegatives(Table(items), **{"refresh": 1, "depth": 5, **settings}).rows(users, batch, mining).tolist()  # type: ignore[arg-type]


def test_hard_negatives_are_what_stands_at_the_ranks_asked_for_less_the_sequences_own() -> None:
    items = torch.eye(10) * torch.arange(10, 0, -1)[:, None]  # for a user of ones, item 0 is first, then 1, …
    batch = SequenceBatch(torch.tensor([[2, 0], [5, 5]]), torch.tensor([[2, 3, -1], [-1, 5, 6]]), samples=4)
    users = torch.ones(4, 10)
    first = Mining(torch.tensor([1, -1]), torch.tensor([[0, 2], [0, 1]]))
    assert mined(items, users, batch, first) == [1, 5]  # of 1, 4, 5, …: row 0 pads, 2 and 3 are its own
    both = Mining(torch.tensor([1, 2]), torch.tensor([[0, 1], [3, 3]]))
    assert mined(items, users, batch, both) == [1, 3, 4]


def test_of_several_interests_the_greatest_score_ranks() -> None:
    items = torch.tensor([[5.0, 0.0], [0.0, 6.0], [4.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    batch = SequenceBatch(torch.zeros(1, 0, dtype=torch.long), torch.tensor([[4]]), samples=1)
    mining = Mining(torch.tensor([0]), torch.tensor([[0, 2]]))
    assert mined(items, torch.eye(2)[None], batch, mining) == [1, 2]


def test_ranks_that_a_small_catalogue_does_not_have_find_nothing() -> None:
    batch = SequenceBatch(torch.zeros(1, 0, dtype=torch.long), torch.tensor([[1]]), samples=1)
    mining = Mining(torch.tensor([0]), torch.tensor([[40]]))
    assert mined(torch.eye(3), torch.ones(1, 3), batch, mining, depth=50) == []


def test_the_index_is_made_anew_when_it_is_due_and_not_before() -> None:
    table = Table(torch.eye(4) * torch.tensor([[4.0], [3.0], [2.0], [1.0]]))
    hard = HardNegatives(table, refresh=2, depth=1)  # type: ignore[arg-type]
    batch = SequenceBatch(torch.zeros(1, 0, dtype=torch.long), torch.tensor([[3]]), samples=1)
    mining = Mining(torch.tensor([0]), torch.tensor([[0]]))
    found = []
    for _ in range(4):
        found.append(hard.rows(torch.ones(1, 4), batch, mining).item())
        table.vectors.data = table.vectors.data.roll(1, dims=0)
    assert found == [0, 0, 2, 2]


def test_an_index_of_many_items_is_approximate_and_restored_from_its_vectors() -> None:
    torch.manual_seed(0)
    tower = ItemTower(ItemShape(item_codes=21_002, dim=8, id_dropout=0.5), torch.arange(21_000) + 2, {}).train()
    nn.init.normal_(tower.table.weight)  # type: ignore[union-attr]
    batch = SequenceBatch(torch.zeros(2, 0, dtype=torch.long), torch.tensor([[1], [2]]), samples=2)
    mining = Mining(torch.tensor([0, 0]), torch.tensor([[0, 5], [0, 9]]))
    users = torch.randn(2, 9)
    hard, other = (HardNegatives(tower, refresh=10, depth=10) for _ in range(2))
    found = hard.rows(users, batch, mining)
    assert tower.training
    other.restore(hard.tensors())
    with torch.no_grad():
        tower.table.weight.zero_()  # type: ignore[union-attr]
    assert torch.equal(other.rows(users, batch, mining), found)
    assert torch.equal(hard.rows(users, batch, mining), found)


def sequences(users: int = 30, items: int = 40) -> Interactions:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, users)
    rows = rng.integers(0, items, lengths.sum()).astype(np.int32)
    return Interactions(np.arange(users, dtype=np.int64), offsets_of(lengths), rows, np.zeros(len(rows), np.int64))


@pytest.mark.parametrize("places", [1.0, 0.5])
def test_a_batch_asks_for_ranks_at_a_place_with_a_target_of_each_sequence(places: float) -> None:
    sampling = SequenceSampling(batch_users=8, length=6, in_batch=8, mined=3, mined_ranks=(2, 5), places=places)
    for batch in SequenceSource(sequences(), {}, 40, sampling).epoch(0):
        assert batch.negatives is not None
        assert batch.negatives.mining is not None
        found, ranks = batch.negatives.mining.places, batch.negatives.mining.ranks
        there = (batch.targets >= 0).any(dim=1)
        assert torch.equal(found >= 0, there)
        assert (batch.targets[there].gather(1, found[there, None]) >= 0).all()
        assert ranks.shape == (len(batch.targets), 3)
        assert 2 <= int(ranks.min()) <= int(ranks.max()) < 5


def test_workers_are_dealt_the_places_and_ranks_of_their_sequences() -> None:
    source = SequenceSource(sequences(), {}, 40, SequenceSampling(batch_users=8, length=6, in_batch=8, mined=2))
    whole = next(source.epoch(0)).negatives
    shares = [share_of(next(source.epoch(0)), rank, 2).negatives for rank in range(2)]
    for rank, share in enumerate(shares):
        assert torch.equal(share.mining.places, whole.mining.places[rank::2])  # type: ignore[union-attr]
        assert torch.equal(share.mining.ranks, whole.mining.ranks[rank::2])  # type: ignore[union-attr]


class KilledError(Exception):
    pass


def fitted(scratch: Path, killed_at: int = 0) -> list[Tensor]:
    """The weights of a fit with both kinds of columns and dropout; where asked to, it is killed at a step."""
    torch.manual_seed(0)
    shape = TwoTowerShape(item_codes=42, dim=8, history_length=6, history="mean", dropout=0.3)
    model = TwoTower(shape, torch.arange(40) + 2, {})
    sampling = SequenceSampling(batch_users=8, length=6, in_batch=8, uniform=4, mined=2, mined_ranks=(2, 9))
    source = SequenceSource(sequences(), {}, 40, sampling)
    memory, hard = NegativeMemory(3, warm_up=2), HardNegatives(model.items, refresh=5, depth=9)
    objective = NextItemObjective(model, CountedFrequency(torch.from_numpy(source.shares())), memory=memory, hard=hard)
    config = TrainerConfig(max_epochs=4, lr=0.05, checkpoint_s=1e-9)
    trainer = Trainer(model, objective, source, config, QuietProgress(scratch), also=objective)
    steps, step = iter(range(1, 100)), trainer.step

    def counted(*batches: SequenceBatch) -> float:
        if next(steps) == killed_at:
            raise KilledError
        return step(*batches)

    trainer.step = counted  # type: ignore[method-assign]
    trainer.fit()
    return [weight.detach().clone() for weight in model.parameters()]


def test_a_fit_killed_between_two_indexes_goes_on_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = fitted(tmp_path / "whole")
    with pytest.raises(KilledError):
        fitted(tmp_path / "parts", killed_at=9)
    assert all(torch.equal(a, b) for a, b in zip(whole, fitted(tmp_path / "parts"), strict=True))

"""The trainer with what large models need: tables taken row by row, steps of several batches, bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.models.sequence_batch import SequenceBatch
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.train.config import TrainerConfig
from recsys.train.frequency import CountedFrequency
from recsys.train.objective import NextItemObjective
from recsys.train.progress import QuietProgress
from recsys.train.trainer import Trainer
from recsys.train.view import TrainView

ROWS, STEPS = 50, 5


@dataclass(frozen=True)
class Looks:
    codes: Tensor
    y: Tensor

    @property
    def samples(self) -> int:
        return len(self.y)


class Choices:
    """Five batches an epoch, of different sizes, over a table of 50 rows."""

    steps = STEPS

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Looks]:
        for step in range(start, STEPS):
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            codes = torch.randint(0, ROWS, (4 + step,), generator=generator)
            yield Looks(codes, (codes % 7).float())


class KilledError(Exception):
    pass


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(ROWS, 4), nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


def validation_of(model: nn.Module) -> dict[str, float]:
    batch = next(Choices().epoch(999))
    with torch.no_grad():
        return {"ndcg@10": -float((model(batch.codes)[:, 0] - batch.y).square().mean())}


def trainer(model: nn.Module, scratch: Path, config: TrainerConfig, killed_at: int = 0) -> Trainer[Looks]:
    """A trainer that validates, and whose process dies with the batch number `killed_at`."""
    seen = 0

    def objective(batch: Looks) -> Tensor:
        nonlocal seen
        seen += 1
        if seen == killed_at:
            raise KilledError
        return (model(batch.codes)[:, 0] - batch.y).square().mean()

    return Trainer(model, objective, Choices(), config, QuietProgress(scratch), lambda: validation_of(model))


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    world = Planted(users=240, items=80, clusters=4, mean_length=12)
    return planted_view(tmp_path_factory.mktemp("planted") / "data", world)


def test_a_fit_whose_tables_were_taken_otherwise_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when several workers on GPUs, which take no table row by row, go on with what one began."""
    config = TrainerConfig(max_epochs=2, lr=0.05, checkpoint_s=1e-9)
    monkeypatch.setattr("recsys.train.optimisers.ROW_WISE_FROM", ROWS)
    with pytest.raises(KilledError):
        trainer(network(), tmp_path, config, 2 * STEPS).fit()
    monkeypatch.setattr("recsys.train.ranks.Ranks.adds_sparse", False)
    run = trainer(network(), tmp_path, config)
    result = run.fit()
    assert not run.optimiser.row_wise
    assert run.run.updates == 2 * STEPS
    assert [record.epoch for record in result.curve] == [1, 2]


@pytest.mark.parametrize("killed_at", range(1, 3 * STEPS + 1))
def test_a_run_killed_at_any_batch_ends_as_if_it_had_not_been(tmp_path: Path, killed_at: int) -> None:
    """Steps of two batches, the last of an epoch of one: also in the middle of a step."""
    config = TrainerConfig(
        max_epochs=3, lr=0.05, ema=0.8, accumulate=2, table_optimiser="rowwise", checkpoint_s=1e-9, patience=10
    )
    whole = network()
    torch.manual_seed(1)
    expected = trainer(whole, tmp_path / "whole", config).fit()

    dying = network()
    torch.manual_seed(1)
    with pytest.raises(KilledError):
        trainer(dying, tmp_path / "parts", config, killed_at).fit()
    resumed = network()
    if not (tmp_path / "parts" / "checkpoint.safetensors").exists():  # killed within the first step
        torch.manual_seed(1)
    result = trainer(resumed, tmp_path / "parts", config).fit()

    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert [(r.epoch, r.loss, r.metrics) for r in result.curve] == [
        (r.epoch, r.loss, r.metrics) for r in expected.curve
    ]


@pytest.mark.parametrize("optimiser", ["dense", "rowwise"])
def test_the_gradient_of_several_batches_is_that_of_one_large_batch(
    view: TrainView, tmp_path: Path, optimiser: str
) -> None:
    """Of unequal batches: their means count by their targets. Weights are no measure: Adam blows rounding up."""
    found = []
    for cuts in ([0, 48], [0, 20, 38, 48]):
        torch.manual_seed(0)
        settings = {"dim": 16, "blocks": 1, "dropout": 0.0, "table_optimiser": optimiser}
        config = TwoTowerConfig.model_validate(settings)
        model = build_model(config, view).train()
        source = SequenceSource(view.train, view.users, len(view.catalogue), SequenceSampling(48, 20))
        objective = NextItemObjective(model, CountedFrequency(torch.from_numpy(source.shares())))
        run = Trainer(model, objective, source, config, QuietProgress(tmp_path))
        run.step(*(_first_windows(source, low, high) for low, high in pairwise(cuts)))
        found.append(
            [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in model.parameters() if p.grad is not None]
        )
    for whole, parts in zip(*found, strict=True):
        assert torch.allclose(whole, parts, rtol=0, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in found[0]) > 1e-3


def _first_windows(source: SequenceSource, low: int, high: int) -> SequenceBatch:
    """A batch of the users low … high - 1, each from its sequence's start."""
    return source.batch(np.arange(low, high), np.zeros(high - low, np.int64), np.random.default_rng(0))


def test_averaged_weights_leave_row_wise_tables_as_they_are(tmp_path: Path) -> None:
    plain, averaged = network(), network()
    for model, ema in ((plain, 0.0), (averaged, 0.9)):
        torch.manual_seed(1)
        config = TrainerConfig(max_epochs=1, lr=0.05, ema=ema, table_optimiser="rowwise")
        trainer(model, tmp_path / str(ema), config).fit()
    assert torch.equal(plain[0].weight, averaged[0].weight)  # type: ignore[arg-type]
    assert not torch.equal(plain[1].weight, averaged[1].weight)  # type: ignore[arg-type]


def test_the_averaged_weights_are_validated_in_their_place_not_in_a_copy(tmp_path: Path) -> None:
    model = network()
    run = trainer(model, tmp_path, TrainerConfig(max_epochs=1, ema=0.9))
    places = {name: (p.data_ptr(), run.average[name].data_ptr()) for name, p in model.named_parameters()}
    seen = {}

    def validate() -> dict[str, float]:
        seen.update({name: p.data_ptr() for name, p in model.named_parameters()})
        return {"ndcg@10": 0.0}

    run.validate = validate
    run._epoch()
    assert seen == {name: average for name, (_, average) in places.items()}
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == {n: own for n, (own, _) in places.items()}


def test_only_the_best_weights_are_left_beside_the_checkpoint(tmp_path: Path) -> None:
    config = TrainerConfig(max_epochs=6, lr=0.05, patience=10)
    result = trainer(network(), tmp_path, config).fit()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"best-{result.epochs}.safetensors",
        "checkpoint.safetensors",
    ]


def test_without_its_best_weights_a_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    config = TrainerConfig(max_epochs=2, lr=0.05)
    whole = network()
    torch.manual_seed(1)
    epochs = trainer(whole, tmp_path, config).fit().epochs
    (tmp_path / f"best-{epochs}.safetensors").unlink()
    again = network()
    torch.manual_seed(1)
    assert len(trainer(again, tmp_path, config).fit().curve) == 2
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def _fitted(view: TrainView, scratch: Path, **settings: object) -> tuple[nn.Module, float]:
    """A two-tower after some epochs on the planted world, and its last mean loss."""
    torch.manual_seed(0)
    config = TwoTowerConfig.model_validate(
        {"dim": 16, "blocks": 1, "dropout": 0.1, "lr": 5e-3, "max_epochs": 6, "batch_users": 32, **settings}
    )
    model = build_model(config, view)
    sampled = {"in_batch": 64, "uniform": 32} if config.loss == "sampled_softmax" else {}
    source = SequenceSource(view.train, view.users, len(view.catalogue), SequenceSampling(32, 20, **sampled))
    objective = NextItemObjective(model, CountedFrequency(torch.from_numpy(source.shares())))
    return model, Trainer(model, objective, source, config, QuietProgress(scratch)).fit().curve[-1].loss


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_bf16_training_reaches_the_loss_of_float32(view: TrainView, tmp_path: Path, loss: str) -> None:
    _, exact = _fitted(view, tmp_path / "float32", precision="float32", loss=loss)
    model, rounded = _fitted(view, tmp_path / "bf16", precision="bf16", loss=loss)
    assert abs(rounded - exact) < 0.01 * exact
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_under_bf16_norms_and_loss_stay_in_float32(view: TrainView) -> None:
    model = build_model(TwoTowerConfig(dim=16, blocks=1), view)
    source = SequenceSource(view.train, view.users, len(view.catalogue), SequenceSampling(8, 20))
    objective = NextItemObjective(model, CountedFrequency(torch.from_numpy(source.shares())), bf16=True)
    kinds: dict[type[nn.Module], set[torch.dtype]] = {nn.LayerNorm: set(), nn.Linear: set()}
    for module in model.modules():
        if type(module) in kinds:
            module.register_forward_hook(lambda layer, _, out: kinds[type(layer)].add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(next(source.epoch(0)))
    assert loss.dtype == torch.float32
    assert kinds[nn.LayerNorm] == {torch.float32}
    assert torch.bfloat16 in kinds[nn.Linear]


def test_row_wise_tables_reach_the_loss_of_dense_ones(view: TrainView, tmp_path: Path) -> None:
    _, dense = _fitted(view, tmp_path / "dense", table_optimiser="dense", loss="sampled_softmax")
    _, row_wise = _fitted(view, tmp_path / "rowwise", table_optimiser="rowwise", loss="sampled_softmax")
    assert row_wise < 1.03 * dense


@pytest.mark.gpu
@pytest.mark.parametrize("optimiser", ["dense", "rowwise"])
def test_on_a_gpu_bf16_training_reaches_the_loss_of_a_cpu(view: TrainView, tmp_path: Path, optimiser: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    _, expected = _fitted(view, tmp_path / "cpu", table_optimiser=optimiser)
    torch.manual_seed(0)
    config = TwoTowerConfig.model_validate(
        {"dim": 16, "blocks": 1, "dropout": 0.1, "lr": 5e-3, "max_epochs": 6, "table_optimiser": optimiser}
    )
    model = build_model(config, view).to("cuda")
    source = SequenceSource(view.train, view.users, len(view.catalogue), SequenceSampling(32, 20))
    objective = NextItemObjective(model, CountedFrequency(torch.from_numpy(source.shares()).to("cuda")), bf16=True)
    run = Trainer(model, objective, source, config, QuietProgress(tmp_path / "gpu"), device="cuda")
    assert run.autocast
    assert abs(run.fit().curve[-1].loss - expected) < 0.05 * expected

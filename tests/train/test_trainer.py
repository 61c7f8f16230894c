"""The trainer: resumes to the very bit, keeps the best weights, stops when told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.train.checkpoint import load_checkpoint, save_checkpoint
from recsys.train.config import TrainerConfig, TrainingResult
from recsys.train.progress import QuietProgress
from recsys.train.trainer import Trainer


@dataclass(frozen=True)
class Points:
    x: Tensor
    y: Tensor

    @property
    def samples(self) -> int:
        return len(self.x)


class Line:
    """Noisy points of a line, four batches an epoch."""

    steps = 4

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Points]:
        for step in range(start, self.steps):
            generator = torch.Generator().manual_seed(1000 * epoch + step)
            x = torch.randn(16, 3, generator=generator)
            yield Points(x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(16, generator=generator))


class KilledError(Exception):
    pass


@dataclass(frozen=True)
class DiesAfter:
    """Progress of a process that is killed once an epoch is done."""

    scratch: Path
    epochs: int

    def update(self, done: int, total: int, message: str, **metrics: float) -> None:
        if done >= self.epochs:
            raise KilledError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))


def trainer(
    model: nn.Module, scratch: Path, config: TrainerConfig, progress: object = None, **more: object
) -> Trainer[Points]:
    def objective(batch: Points) -> Tensor:
        return (model(batch.x)[:, 0] - batch.y).square().mean()

    return Trainer(model, objective, Line(), config, progress or QuietProgress(scratch), **more)  # type: ignore[arg-type]


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def validation_of(model: nn.Module) -> dict[str, float]:
    batch = next(Line().epoch(999))
    with torch.no_grad():
        return {"ndcg@10": -float((model(batch.x)[:, 0] - batch.y).square().mean())}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_two_epochs_and_two_resumed_are_four_epochs_to_the_bit(tmp_path: Path, ema: float) -> None:
    config = TrainerConfig(max_epochs=4, lr=0.05, ema=ema, weight_decay=0.1, patience=10)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = network()
    torch.manual_seed(1)
    trainer(whole, tmp_path / "whole", config, validate=lambda: validation_of(whole)).fit()

    first = network()
    torch.manual_seed(1)
    dying = DiesAfter(tmp_path / "parts", 2)
    with pytest.raises(KilledError):
        trainer(first, tmp_path / "parts", config, dying, validate=lambda: validation_of(first)).fit()
    resumed = network()
    torch.manual_seed(77)
    result = trainer(resumed, tmp_path / "parts", config, validate=lambda: validation_of(resumed)).fit()

    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert [record.epoch for record in result.curve] == [1, 2, 3, 4]


def test_a_run_killed_within_an_epoch_goes_on_at_the_step(tmp_path: Path) -> None:
    config = TrainerConfig(max_epochs=3, lr=0.05, checkpoint_s=1e-9)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = network()
    torch.manual_seed(1)
    trainer(whole, tmp_path / "whole", config).fit()

    model = network()
    torch.manual_seed(1)
    dying = trainer(model, tmp_path / "parts", config)
    steps = 0
    step = dying.step

    def killed_at_the_seventh(batch: Points) -> float:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KilledError
        return step(batch)

    dying.step = killed_at_the_seventh  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        dying.fit()
    resumed = network()
    trainer(resumed, tmp_path / "parts", config).fit()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


class Counter:
    """Counts steps: what a streamed estimate is to the trainer."""

    def __init__(self) -> None:
        self.steps = torch.zeros((), dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        return {"steps": self.steps}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.steps.copy_(tensors["steps"])


def test_what_else_changes_while_training_is_in_the_checkpoint(tmp_path: Path) -> None:
    config = TrainerConfig(max_epochs=3)

    def counting(counter: Counter, progress: object = None) -> Trainer[Points]:
        model = network()

        def objective(batch: Points) -> Tensor:
            counter.steps += 1
            return model(batch.x).square().mean()

        return Trainer(model, objective, Line(), config, progress or QuietProgress(tmp_path), also=counter)  # type: ignore[arg-type]

    with pytest.raises(KilledError):
        counting(Counter(), DiesAfter(tmp_path, 2)).fit()
    resumed = Counter()
    counting(resumed).fit()
    assert int(resumed.steps) == 3 * Line.steps


def test_patience_waits_for_the_first_validation(tmp_path: Path) -> None:
    config = TrainerConfig(max_epochs=5, lr=0.05, patience=1, validate_every=3)
    model = network()
    result = trainer(model, tmp_path, config, validate=lambda: validation_of(model)).fit()
    assert [record.epoch for record in result.curve if record.metrics] == [3]
    assert len(result.curve) == 4


def test_the_best_epochs_weights_are_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    model = network()
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    kept: list[list[Tensor]] = []

    def validate() -> dict[str, float]:
        kept.append(weights(model))
        return {"ndcg@10": next(scores)}

    result = trainer(model, tmp_path, TrainerConfig(max_epochs=6, lr=0.05, patience=2), validate=validate).fit()
    assert result.epochs == 2
    assert len(result.curve) == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(model), kept[1], strict=True))


def test_without_validation_all_epochs_are_run(tmp_path: Path) -> None:
    result: TrainingResult = trainer(network(), tmp_path, TrainerConfig(max_epochs=3)).fit()
    assert result.epochs == 3


def test_training_learns_the_line(tmp_path: Path) -> None:
    model = network()
    before = validation_of(model.eval())["ndcg@10"]
    trainer(model, tmp_path, TrainerConfig(max_epochs=40, lr=0.03)).fit()
    assert validation_of(model)["ndcg@10"] > before / 5


def test_averaged_weights_are_what_is_kept(tmp_path: Path) -> None:
    plain, averaged = network(), network()
    for model, ema in ((plain, 0.0), (averaged, 0.5)):
        torch.manual_seed(1)
        (tmp_path / str(ema)).mkdir()
        trainer(model, tmp_path / str(ema), TrainerConfig(max_epochs=2, lr=0.05, ema=ema)).fit()
    assert not any(torch.equal(a, b) for a, b in zip(weights(plain), weights(averaged), strict=True))


def test_the_rate_rises_then_falls_to_its_floor(tmp_path: Path) -> None:
    run = trainer(network(), tmp_path, TrainerConfig(max_epochs=10, lr=1.0, warmup=0.25, lr_floor=0.1))
    rates = []
    for epoch in range(10):
        for step in range(Line.steps):
            run.run.epoch, run.run.step = epoch, step
            rates.append(run._rate())
    peak = rates.index(max(rates))
    assert 9 <= peak <= 11
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.12


def test_a_time_budget_ends_the_run_at_a_low_rate(tmp_path: Path) -> None:
    config = TrainerConfig(max_epochs=10_000, lr=0.01, time_budget_s=0.3)
    result = trainer(network(), tmp_path, config).fit()
    assert 0 < result.epochs < 10_000
    assert result.curve[-1].lr < 0.2 * config.lr


def test_a_loss_that_is_no_number_ends_the_run_with_its_place(tmp_path: Path) -> None:
    model = network()
    run = Trainer(
        model, lambda batch: model(batch.x).sum() * torch.nan, Line(), TrainerConfig(), QuietProgress(tmp_path)
    )
    with pytest.raises(TrainingError, match=r"nan at epoch 1, step 1; lower the learning rate"):
        run.fit()


def test_a_checkpoint_of_other_settings_is_not_resumed(tmp_path: Path) -> None:
    trainer(network(), tmp_path, TrainerConfig(max_epochs=2, lr=0.05)).fit()
    result = trainer(network(), tmp_path, TrainerConfig(max_epochs=3, lr=0.05)).fit()
    assert [record.epoch for record in result.curve] == [1, 2, 3]


def test_a_truncated_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": torch.ones(3)}, {"epoch": 2})
    tensors, state = load_checkpoint(path) or ({}, {})
    assert torch.equal(tensors["a"], torch.ones(3))
    assert state == {"epoch": 2}
    path.write_bytes(path.read_bytes()[:-4])
    assert load_checkpoint(path) is None

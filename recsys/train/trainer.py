"""The one training loop: warm-up and cosine, accumulation, averaged weights, early stopping, bit-exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.train import checkpoint as ck
from recsys.train.config import EpochRecord, TrainerConfig, TrainingResult
from recsys.train.device import bf16_autocast
from recsys.train.memory import keep_freed_memory
from recsys.train.optimisers import Optimiser, possible_tables
from recsys.train.progress import Progress
from recsys.train.ranks import ALONE, Ranks

BatchT = TypeVar("BatchT", bound="Batch")
YieldedT = TypeVar("YieldedT", bound="Batch", covariant=True)
Objective = Callable[[BatchT], Tensor]
"""A batch to its mean loss, a scalar."""
Validate = Callable[[], Mapping[str, float]]
"""Metrics of the model as it stands; the trainer follows one of them."""

_SHARE_OF_SAVING = 20.0
"""Writing checkpoints may take one part in so many of the time."""


class Batch(Protocol):
    """What a source yields."""

    @property
    def samples(self) -> int:
        """Targets in it."""
        ...


class Source(Protocol[YieldedT]):
    """Batches as a function of (epoch, step): a resumed run sees the same ones."""

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[YieldedT]:
        """The batches of an epoch from step `start` on."""
        ...


@dataclass(slots=True)
class _Run:
    """Where a run stands: what a checkpoint holds beside tensors."""

    epoch: int = 0
    step: int = 0
    updates: int = 0
    elapsed: float = 0.0
    stepping: float = 0.0
    samples: int = 0
    loss_sum: float = 0.0
    best: float = -math.inf
    best_epoch: int = 0
    finished: bool = False
    curve: list[dict[str, object]] = field(default_factory=list)


class Trainer(Generic[BatchT]):
    """Fits one model.

    Args:
        model: the module; left with the best weights, in evaluation mode.
        objective: a batch to its mean loss.
        source: the batches.
        config: how.
        progress: where checkpoints go and who is told.
        validate: metrics of the model; None = all `max_epochs` are run (a refit).
        follow: the metric that decides, higher is better.
        device: where the batches are computed.
        ranks: the workers that train this model together, each on its share of every batch. All construct a trainer
            alike and call `fit`; they take the same steps, and rank 0 writes the checkpoints.
        also: what else changes while training, and so belongs in a checkpoint.

    Raises:
        ConfigError: for row-wise tables where the workers cannot average sparse gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective[BatchT],
        source: Source[BatchT],
        config: TrainerConfig,
        progress: Progress,
        validate: Validate | None = None,
        follow: str = "ndcg@10",
        device: str = "cpu",
        ranks: Ranks = ALONE,
        also: ck.Stateful | None = None,
    ) -> None:
        self.model, self.source, self.ranks = model, source, ranks
        self.config, self.progress, self.validate, self.follow = config, progress, validate, follow
        self.device, self.also = device, also
        self.optimiser = Optimiser(
            model,
            lr=config.lr,
            weight_decay=config.weight_decay,
            tables=possible_tables(config.table_optimiser, sparse=ranks.adds_sparse),
            table_lr=config.table_lr,
        )
        self.objective = ranks.averaging(model, objective)
        averaged = set(self.optimiser.parameters) - self.optimiser.row_wise if config.ema else set()
        self.average = {n: p.detach().clone() for n, p in model.named_parameters() if n in averaged}
        self.run = _Run()
        self._save_after = config.checkpoint_s
        self.autocast = bf16_autocast(config.precision, device)

    @property
    def checkpoint_path(self) -> Path:
        """The file a restart reads."""
        return self.progress.scratch / "checkpoint.safetensors"

    def fit(self) -> TrainingResult:
        """Trains, or goes on where a checkpoint says, to the end.

        Raises:
            TrainingError: when the loss is no longer a number, or workers do not see the same checkpoint.
        """
        keep_freed_memory()
        if self.ranks.rank:  # each drops out other numbers
            torch.manual_seed(torch.initial_seed() + self.ranks.rank)
        self._resume()
        while not self.run.finished:
            self._epoch()
        self.ranks.wait()  # until the best weights are written
        self._take_best()
        self.model.eval()
        return self._result()

    def _epoch(self) -> None:
        run, began = self.run, time.monotonic()
        before = run.elapsed
        saved = began
        self.model.train()
        lr = 0.0
        for batches in _together(self.source.epoch(run.epoch, run.step), self.config.accumulate):
            started = time.monotonic()
            lr = self.step(*batches)
            run.step += len(batches)
            run.stepping += time.monotonic() - started
            now = time.monotonic()
            run.elapsed, due = self.ranks.from_leader([before + now - began, now - saved > self._save_after])
            if due:
                self._save()
                saved = time.monotonic()
            if self._out_of_time():
                break
        metrics = self._validation()
        (run.elapsed,) = self.ranks.from_leader([before + time.monotonic() - began])
        loss = run.loss_sum / max(1, run.step)
        run.epoch += 1
        run.curve.append({"epoch": run.epoch, "loss": loss, "lr": lr, "seconds": run.elapsed, "metrics": dict(metrics)})
        run.step, run.loss_sum = 0, 0.0
        run.finished = self._ends()
        self._save()
        self.progress.update(run.epoch, self.config.max_epochs, "epoch", loss=loss, seconds=run.elapsed, **metrics)

    def step(self, *batches: BatchT) -> float:
        """One step of the optimiser on one batch or several; returns the learning rate it was made with.

        Raises:
            TrainingError: when the loss is no longer a number.
        """
        share, run = self._rate(), self.run
        (samples,) = self.ranks.sum([sum(batch.samples for batch in batches)])
        self.optimiser.zero_grad()
        part = 0.0
        for place, batch in enumerate(batches, start=1):
            part += self._add_gradient(batch, batch.samples / max(1.0, samples), last=place == len(batches))
        (loss,) = self.ranks.sum([part])
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at epoch {run.epoch + 1}, step {run.step + 1}; "
                f"lower the learning rate ({self.config.lr}) or the gradient clip ({self.config.clip})"
            )
        self.optimiser.step(share, self.config.clip)
        self._update_average()
        run.updates += 1
        run.samples += int(samples)
        run.loss_sum += loss * len(batches)
        return self.config.lr * share

    def _add_gradient(self, batch: BatchT, weight: float, *, last: bool) -> float:
        """Adds the gradient of a batch's loss, times `weight`, to those there are; returns that part of the loss.

        With the last batch of a step the gradients of all workers are averaged; so each counts `world` times.
        """
        with self.ranks.exchanging(self.objective, now=last):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
                loss = self.objective(batch)
            scale = weight * self.ranks.world
            (loss if scale == 1.0 else loss * scale).backward()  # type: ignore[no-untyped-call]
        return weight * float(loss.detach())

    def _rate(self) -> float:
        """The share of the peak rate at this step."""
        config, run = self.config, self.run
        total = config.max_epochs * self.source.steps
        done = (run.epoch * self.source.steps + run.step) / total
        if config.time_budget_s is not None:
            done = max(done, run.elapsed / config.time_budget_s)
        if done < config.warmup:
            return (done + 1.0 / total) / (config.warmup + 1.0 / total)
        fallen = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - config.warmup) / (1.0 - config.warmup))))
        return config.lr_floor + (1.0 - config.lr_floor) * fallen

    @torch.no_grad()
    def _update_average(self) -> None:
        if not self.average:
            return
        decay = min(self.config.ema, (1.0 + self.run.updates) / (10.0 + self.run.updates))
        weights = self.optimiser.parameters
        kept, current = zip(*((kept, weights[name].detach()) for name, kept in self.average.items()), strict=True)
        torch._foreach_lerp_(kept, current, 1.0 - decay)

    def _validation(self) -> Mapping[str, float]:
        run = self.run
        due = (run.epoch + 1) % self.config.validate_every == 0 or self._last_epoch()
        if self.validate is None or not due:
            return {}
        with self._averaged():
            self.model.eval()
            metrics = self.validate()
            if metrics[self.follow] > run.best:
                run.best, run.best_epoch = metrics[self.follow], run.epoch + 1
                if self.ranks.leads:
                    ck.save_checkpoint(self._best_path(), self._weights(), {})
        return metrics

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model holds the averaged weights meanwhile."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    def _swap_average(self) -> None:
        """The averaged weights and those of training change places; nothing is copied."""
        for name, average in self.average.items():
            weight = self.optimiser.parameters[name]
            self.average[name], weight.data = weight.data, average

    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.optimiser.parameters.items()}

    def _best_path(self) -> Path:
        """The best weights are on disk alone; a crash between their file and the checkpoint leaves both epochs'."""
        return self.progress.scratch / f"best-{self.run.best_epoch}.safetensors"

    def _take_best(self) -> None:
        """Leaves the model with the weights that validated best, or with the averaged ones."""
        best = ck.load_checkpoint(self._best_path()) if self.run.best_epoch else None
        if best is None:
            self._swap_average()
        else:
            self._put(best[0])

    def _last_epoch(self) -> bool:
        return self.run.epoch + 1 >= self.config.max_epochs or self._out_of_time()

    def _out_of_time(self) -> bool:
        return self.config.time_budget_s is not None and self.run.elapsed >= self.config.time_budget_s

    def _ends(self) -> bool:
        run = self.run
        stale = run.best_epoch > 0 and run.epoch - run.best_epoch >= self.config.patience
        return run.epoch >= self.config.max_epochs or self._out_of_time() or stale

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self.optimiser.parameters.items():
            weight.copy_(weights[name])

    def _result(self) -> TrainingResult:
        run = self.run
        curve = tuple(EpochRecord(**record) for record in run.curve)  # type: ignore[arg-type]
        rate = run.samples / max(run.stepping, 1e-9)
        return TrainingResult(run.best_epoch or run.epoch, curve, run.elapsed, rate)

    def _save(self) -> None:
        began = time.monotonic()
        random = self.ranks.gather(ck.random_state())
        if not self.ranks.leads:
            return
        tensors = ck.under("weights", self._weights()) | ck.under("average", self.average)
        tensors |= ck.under("optimiser", self.optimiser.tensors())
        tensors |= ck.under("also", self.also.tensors() if self.also is not None else {})
        for rank, states in enumerate(random):
            tensors |= ck.under(f"random/{rank}", states)
        state = {name: getattr(self.run, name) for name in _Run.__slots__}
        state["settings"] = self._settings()
        ck.save_checkpoint(self.checkpoint_path, tensors, state)
        for path in self.progress.scratch.glob("best-*.safetensors"):
            if path != self._best_path():
                path.unlink()
        self._save_after = max(self.config.checkpoint_s, _SHARE_OF_SAVING * (time.monotonic() - began))

    def _settings(self) -> dict[str, object]:
        """What is as it was when a checkpoint is gone on from; which tables are row-wise is up to the workers too."""
        return {"config": self.config.model_dump_json(), "row_wise": sorted(self.optimiser.row_wise)}

    def _resume(self) -> None:
        found = ck.load_checkpoint(self.checkpoint_path)
        if found is not None and found[1].pop("settings") == self._settings():
            self._go_on_from(*found)
        places = self.ranks.gather({"place": torch.tensor([self.run.epoch, self.run.step])})
        if any(not torch.equal(place["place"], places[0]["place"]) for place in places):
            raise TrainingError(
                f"the workers do not see the same checkpoint at {self.checkpoint_path}; "
                "the nodes of a cluster must share the directory that the run writes to"
            )

    def _go_on_from(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Goes on where a checkpoint says, if it is one of this model and the best weights are there."""
        weights, run = ck.below("weights", tensors), _Run(**state)
        if {n: t.shape for n, t in weights.items()} != {n: w.shape for n, w in self._weights().items()}:
            return
        self.run = run
        if run.best_epoch and ck.load_checkpoint(self._best_path()) is None:
            self.run = _Run()
            return
        self._put(weights)
        for name, average in ck.below("average", tensors).items():
            self.average[name].copy_(average)
        self.optimiser.restore(ck.below("optimiser", tensors))
        if self.also is not None:
            self.also.restore(ck.below("also", tensors))
        ck.restore_random(ck.below(f"random/{self.ranks.rank}", tensors))


def _together(batches: Iterator[BatchT], count: int) -> Iterator[tuple[BatchT, ...]]:
    """Batches in tuples of `count`; the last of an epoch may be shorter."""
    while group := tuple(islice(batches, count)):
        yield group

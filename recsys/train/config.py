"""How a model is to be trained (`TrainerConfig`) and how it went (`TrainingResult`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field as Bound

from recsys.config import Config
from recsys.train.optimisers import TableOptimiser


class TrainerConfig(Config):
    """How to optimise.

    Attributes:
        lr: peak learning rate.
        warmup: share of all steps in which the rate rises from 0; then it falls along a cosine to `lr_floor · lr`.
        weight_decay: AdamW's, on matrices only (not on tables, biases, norms).
        clip: largest norm of the gradient.
        accumulate: batches a step; the gradient is that of the mean over all their targets.
        table_optimiser: "dense" is AdamW for embedding tables too; "rowwise" is row-wise Adagrad (see
            `RowWiseAdagrad`), which costs a batch only the rows that it meets; "auto" is that for tables of 50,000
            rows and more, and "dense" for several workers on GPUs, which cannot average sparse gradients.
        table_lr: peak learning rate of row-wise Adagrad.
        max_epochs: upper bound.
        patience: epochs without a better validation before it stops.
        validate_every: epochs between validations.
        ema: decay a step of the averaged weights that are validated and kept; 0 = the weights themselves. Tables
            that are taken row by row are not averaged.
        time_budget_s: when the clock would end the run before `max_epochs`, the schedule follows the clock, so that
            it still ends at a low rate; None = no bound and the same weights on every machine.
        checkpoint_s: seconds between checkpoints within an epoch; more where writing one takes long.
        precision: "auto" is bf16 autocast on a GPU that has it, and on a CPU that has it bf16 in the loss alone;
            "bf16" is autocast on both.
    """

    lr: float = Bound(2e-3, gt=0)
    lr_floor: float = Bound(0.01, ge=0, le=1)
    warmup: float = Bound(0.03, ge=0, lt=1)
    weight_decay: float = Bound(0.0, ge=0)
    clip: float = Bound(1.0, gt=0)
    accumulate: int = Bound(1, ge=1)
    table_optimiser: TableOptimiser = "auto"
    table_lr: float = Bound(0.1, gt=0)
    max_epochs: int = Bound(50, ge=1)
    patience: int = Bound(5, ge=1)
    validate_every: int = Bound(1, ge=1)
    ema: float = Bound(0.0, ge=0, lt=1)
    time_budget_s: float | None = Bound(None, gt=0)
    checkpoint_s: float = Bound(120.0, gt=0)
    precision: Literal["auto", "float32", "bf16"] = "auto"


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch of the training curve."""

    epoch: int
    loss: float
    lr: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of it; the model holds the best weights.

    Attributes:
        epochs: the number that validated best, or all without validation.
        curve: a record an epoch.
        seconds: of training, validation included, over all resumed parts.
        samples_per_s: targets a second of training steps alone.
    """

    epochs: int
    curve: tuple[EpochRecord, ...]
    seconds: float
    samples_per_s: float

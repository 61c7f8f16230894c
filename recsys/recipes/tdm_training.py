"""The stages of a TDM's fit: the towers alone, then rounds on a tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from recsys.models.tdm import Tdm
from recsys.models.two_tower import TwoTower
from recsys.recipes.retriever_recipe import FULL_SOFTMAX_UP_TO, excludes_history, shown_rows, train, validator_of
from recsys.recipes.tdm_config import TdmConfig
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.train.beam_objective import BeamObjective
from recsys.train.config import TrainingResult
from recsys.train.progress import Progress
from recsys.train.trainer import Trainer
from recsys.train.tree_objective import TreeObjective
from recsys.train.tree_validation import TreeValidator
from recsys.train.view import TrainView


@dataclass(frozen=True, slots=True)
class Stage:
    """Tells of one stage as a part of the whole; its checkpoint is its own.

    Attributes:
        whole: of all stages.
        name: what it is called.
        number: from 0.
        stages: how many there are.
    """

    whole: Progress
    name: str
    number: int
    stages: int

    @property
    def scratch(self) -> Path:
        """A folder of the stage."""
        folder = self.whole.scratch / f"stage_{self.number}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def part_of(self, budget: float | None) -> float | None:
        """The stage's of a fit's seconds."""
        return None if budget is None else budget / self.stages

    def update(self, done: int, total: int, message: str, **metrics: float) -> None:
        """Counts what earlier stages may take as done."""
        named = f"{self.name}, {message}"
        self.whole.update(self.number * total + done, self.stages * total, named, **metrics)


def fit_towers(users: TwoTower, config: TdmConfig, view: TrainView, stage: Stage) -> TrainingResult:
    """Fits the towers as a two-tower's, without a tree, or as long as the held-out twin did."""
    torch.manual_seed(view.seed)
    settings = config.of_towers(full_softmax=len(view.catalogue) <= FULL_SOFTMAX_UP_TO)
    settings = settings.model_copy(update={"time_budget_s": stage.part_of(config.time_budget_s)})
    return train(users, settings, view, stage)[0]


def fit_round(model: Tdm, config: TdmConfig, view: TrainView, number: int, stage: Stage) -> TrainingResult:
    """Trains on the model's tree to the end of a round, or as long as the held-out twin did.

    Args:
        model: the tree is in it.
        config: how.
        view: on what.
        number: of the round, from 0.
        stage: who is told.
    """
    torch.manual_seed(view.seed + number)
    shape = model.users.shape
    source = SequenceSource(
        view.train,
        {field.name: view.users[field.name] for field in shape.user_fields},
        len(view.catalogue),
        SequenceSampling(config.batch_users, shape.history_length, places=config.round_places, seed=view.seed + number),
        view.ranks,
    )
    chosen = view.chosen.get(f"epochs_of_round_{number + 1}")
    budget = stage.part_of(config.time_budget_s)
    epochs = config.round_epochs if chosen is None else int(chosen)
    settings = config.model_copy(update={"max_epochs": epochs, "time_budget_s": budget})
    if chosen is None and view.start is not None:
        settings = config.warm_start.applied(settings)
    validate = None
    if chosen is None and view.validation is not None and len(view.validation):
        validator = tree_validator_of(config, view)
        validate = lambda: validator(model)  # noqa: E731 (a closure over two names)
    trainer = Trainer(
        model,
        _objective(model, config, view, last=number == config.rounds - 1),
        source,
        settings,
        stage,
        validate,
        device=model.device,
        ranks=view.ranks,
    )
    return trainer.fit()


def start_validation(begun: TwoTower | Tdm, config: TdmConfig, view: TrainView) -> dict[str, float]:
    """What the validation set says of the model that an earlier run left; nothing without one, or without the other."""
    if view.start is None or view.chosen or view.validation is None or not len(view.validation):
        return {}
    begun.eval()
    found = tree_validator_of(config, view)(begun) if isinstance(begun, Tdm) else validator_of(view)(begun)
    return {f"start_validation_{name}": value for name, value in found.items()}


def tree_validator_of(config: TdmConfig, view: TrainView) -> TreeValidator:
    """By the beam that will serve; the view has a validation set."""
    assert view.validation is not None
    return TreeValidator(view.validation, view.encoder, view.user_frame, config.beam, view.seed, view.ranks)


def _objective(model: Tdm, config: TdmConfig, view: TrainView, *, last: bool) -> TreeObjective | BeamObjective:
    excludes = excludes_history(config.exclude_history, view.train)
    if config.loss == "beam" and last:
        return BeamObjective(model, config.training_beam, exclude_history=excludes, ranks=view.ranks)
    shown = shown_rows(model.users, view)
    return TreeObjective(
        model,
        config.in_batch_nodes,
        config.uniform_nodes,
        leaf_weight=config.leaf_weight,
        exclude_history=excludes,
        shown=None if shown is None else torch.from_numpy(shown).to(model.device),
    )

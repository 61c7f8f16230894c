"""TDM: fitted in rounds between which the tree is learned anew, exported as a user tower, a tree and its nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import JsonValue

from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.errors import ConfigError
from recsys.evaluate.section import Section
from recsys.files import write_text
from recsys.index.item_tree import ItemTree
from recsys.index.node_attention import NodeAttention
from recsys.models.tdm import Tdm
from recsys.recipes.retriever_recipe import TRAINING, excludes_history
from recsys.recipes.tdm_config import TdmConfig
from recsys.recipes.tdm_quality import Asked, BeamQuality, beam_quality
from recsys.recipes.tdm_report import Round, tdm_record, tdm_sections, top_of_tree
from recsys.recipes.tdm_trees import begun, learned_anew
from recsys.recipes.two_tower import build_model
from recsys.retrieval.tree_channel import TREE
from recsys.retrieval.user_tower import HISTORY_VECTORS, TOWER
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.train.beam_objective import BeamObjective
from recsys.train.config import TrainingResult
from recsys.train.device import choose_device
from recsys.train.export import export_user_tower, user_vectors, write_history_vectors
from recsys.train.progress import Progress
from recsys.train.trainer import Trainer
from recsys.train.tree_objective import TreeObjective
from recsys.train.tree_validation import TreeValidator
from recsys.train.validation import RankingValidator
from recsys.train.view import TrainView
from recsys.train.warm_start import WEIGHTS, save_weights

VALIDATED_ON: Final = 3_000
_ASKED: Final = 500
_ASKED_OF_MANY: Final = 50
_MANY_ITEMS: Final = 100_000
"""Brute force over more items than this is measured on fewer users."""


class TdmRecipe:
    """Leaves the channel "tdm"."""

    name = "tdm"
    needs: tuple[str, ...] = ()
    config_type = TdmConfig

    def fit(
        self, config: TdmConfig, view: TrainView, inputs: Mapping[str, Path], out: Path, progress: Progress
    ) -> dict[str, float]:
        """See `Recipe.fit`."""
        if len(view.catalogue) < 2:
            raise ConfigError(f"tdm: a tree takes two items at least, the catalogue has {len(view.catalogue)}")
        torch.set_num_threads(max(1, view.threads))
        torch.manual_seed(view.seed)
        users = build_model(config, view, self.name)
        start = begun(users, config, view)
        model, tree = start.model, start.tree
        model.to(choose_device(view.device))
        started = start.metrics | _validated_start(model, view)
        rounds = []
        for number in range(config.rounds):
            if number:
                tree = learned_anew(model, tree, config, view)
            result = _fit_round(model, config, view, number, progress)
            if view.ranks.leads:
                rounds.append(Round(result, _quality(model, tree, config, view)))
        if not view.ranks.leads:
            return {}
        metrics = _metrics(rounds) | started
        return self._write(model.cpu(), tree, config, view, out, metrics, rounds)

    def sections(self, component: Path, evaluation: Mapping[str, Any]) -> list[Section]:
        """Rounds, beams and the top of the tree; nothing for a component of another kind."""
        record = component / TRAINING
        return tdm_sections(json.loads(record.read_text("utf-8"))) if record.exists() else []

    def _write(
        self,
        model: Tdm,
        tree: ItemTree,
        config: TdmConfig,
        view: TrainView,
        out: Path,
        metrics: dict[str, float],
        rounds: list[Round],
    ) -> dict[str, float]:
        directory = component_directory(out, self.name)
        directory.mkdir(parents=True, exist_ok=True)
        exported = export_user_tower(model.users, directory / TOWER, view.seed)
        if model.users.reads_history:
            write_history_vectors(model.users, directory / HISTORY_VECTORS)
        tree.save(directory / TREE)
        attention_of(model, tree).save(directory / TREE)
        save_weights(model.users, directory / WEIGHTS)
        metrics = metrics | {"parity_error": exported.parity_error}
        write_text(directory / TRAINING, tdm_record(rounds, top_of_tree(tree, view.catalogue, view.train)))
        options: dict[str, JsonValue] = {"inputs": list(exported.inputs), "dim": exported.dim, "beam": config.beam}
        info = ComponentInfo(
            name=self.name,
            kind="channel",
            type="tree",
            feature_set_hash=view.features.hash,
            catalogue_hash=view.catalogue.hash,
            metrics=metrics,
            options={**options, "metric": config.similarity, "history_length": model.users.shape.history_length},
        )
        write_component(out, info)
        return metrics


def attention_of(model: Tdm, tree: ItemTree) -> NodeAttention:
    """A model's nodes and attention as they are served."""
    attention = model.attention
    key, value, ages = (w.detach().cpu().numpy() for w in (attention.key, attention.value, attention.age_weight))
    nodes = torch.cat([block.detach().cpu() for block in model.node_blocks()]).numpy()
    return NodeAttention(tree, nodes, key, value, ages, attention.cap)


@dataclass(frozen=True, slots=True)
class _RoundProgress:
    """Tells of one round as a part of the whole; its checkpoint is its own."""

    whole: Progress
    number: int
    rounds: int

    @property
    def scratch(self) -> Path:
        """A folder of the round."""
        folder = self.whole.scratch / f"round_{self.number}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def update(self, done: int, total: int, message: str, **metrics: float) -> None:
        """Counts what earlier rounds may take as done."""
        named = f"round {self.number + 1} of {self.rounds}, {message}"
        self.whole.update(self.number * total + done, self.rounds * total, named, **metrics)


def _validated_start(model: Tdm, view: TrainView) -> dict[str, float]:
    """What the validation set says of the model that an earlier run left; nothing without one, or without the other."""
    if view.start is None or view.chosen or view.validation is None or not len(view.validation):
        return {}
    return {f"start_validation_{name}": value for name, value in _validator(view)(model.eval()).items()}


def _fit_round(model: Tdm, config: TdmConfig, view: TrainView, number: int, progress: Progress) -> TrainingResult:
    """Trains to the end of a round, or as long as the held-out twin did."""
    shape = model.users.shape
    source = SequenceSource(
        view.train,
        {field.name: view.users[field.name] for field in shape.user_fields},
        len(view.catalogue),
        SequenceSampling(config.batch_users, shape.history_length, places=config.places, seed=view.seed + number),
        view.ranks,
    )
    if view.start is not None:
        config = config.warm_start.applied(config)
    chosen = view.chosen.get(f"epochs_of_round_{number + 1}")
    epochs = -(-config.max_epochs // config.rounds) if chosen is None else int(chosen)
    validate = None
    if chosen is None and view.validation is not None and len(view.validation):
        validator = _validator(view)
        validate = lambda: validator(model)  # noqa: E731 (a closure over two names)
    trainer = Trainer(
        model,
        _objective(model, config, view, last=number == config.rounds - 1),
        source,
        config.model_copy(update={"max_epochs": max(1, epochs)}),
        _RoundProgress(progress, number, config.rounds),
        validate,
        device=model.device,
        ranks=view.ranks,
    )
    return trainer.fit()


def _objective(model: Tdm, config: TdmConfig, view: TrainView, *, last: bool) -> TreeObjective | BeamObjective:
    excludes = excludes_history(config.exclude_history, view.train)
    if config.loss == "beam" and last:
        return BeamObjective(model, config.training_beam, exclude_history=excludes, ranks=view.ranks)
    return TreeObjective(
        model,
        config.in_batch_nodes,
        config.uniform_nodes,
        leaf_weight=config.leaf_weight,
        exclude_history=excludes,
    )


def _validator(view: TrainView) -> TreeValidator:
    assert view.validation is not None
    targets = RankingValidator(view.validation, view.encoder, view.user_frame, view.seed, view.ranks, most=VALIDATED_ON)
    return TreeValidator(targets)


def _quality(model: Tdm, tree: ItemTree, config: TdmConfig, view: TrainView) -> list[BeamQuality]:
    """What beams find on a sample of the validation set; nothing without one."""
    if view.validation is None or not len(view.validation):
        return []
    count = min(len(view.validation), _ASKED if len(view.catalogue) <= _MANY_ITEMS else _ASKED_OF_MANY)
    users = view.validation.users(0, count, view.user_frame)
    vectors = user_vectors(model.users, view.encoder.encode_users(users, trim=True))
    return beam_quality(attention_of(model, tree), Asked(users, vectors, view.validation.target[:count]), config.beam)


def _metrics(rounds: list[Round]) -> dict[str, float]:
    """What the manifest says: the last round's, and how long each one was."""
    last = rounds[-1].result
    best = next((record for record in last.curve if record.epoch == last.epochs), None)
    metrics = {f"epochs_of_round_{number}": float(one.result.epochs) for number, one in enumerate(rounds, start=1)}
    metrics |= {f"validation_{name}": value for name, value in best.metrics.items()} if best else {}
    metrics["training_seconds"] = sum(one.result.seconds for one in rounds)
    metrics["samples_per_s"] = last.samples_per_s
    return metrics

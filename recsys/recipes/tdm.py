"""TDM: towers, a tree of their items, and rounds on it; exported as a user tower, the tree and its nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import JsonValue

from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.errors import ConfigError
from recsys.evaluate.section import Section
from recsys.files import write_text
from recsys.models.tdm import Tdm
from recsys.recipes.retriever_recipe import TRAINING
from recsys.recipes.tdm_config import TdmConfig
from recsys.recipes.tdm_quality import Asked, BeamQuality, beam_quality
from recsys.recipes.tdm_report import Round, Training, tdm_record, tdm_sections, top_of_tree
from recsys.recipes.tdm_training import Stage, fit_round, fit_towers, start_validation
from recsys.recipes.tdm_trees import begun, learn_anew, started_towers
from recsys.recipes.two_tower import build_model
from recsys.retrieval.tree_channel import TREE
from recsys.retrieval.user_tower import HISTORY_VECTORS, TOWER
from recsys.train.device import choose_device
from recsys.train.export import export_user_tower, node_attention, user_vectors, write_history_vectors
from recsys.train.progress import Progress
from recsys.train.validation import sample_of
from recsys.train.view import TrainView
from recsys.train.warm_start import WEIGHTS, save_weights

_ASKED: Final = 3_000
_LEAST_ASKED: Final = 50
_SCORED: Final = 20_000_000
"""Beams are compared with brute force on so many users; on fewer where these would score more leaves, some seconds."""


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
        metrics = started_towers(users, config, view)
        device = choose_device(view.device)
        stages = [f"round {number + 1} of {config.rounds}" for number in range(config.rounds)]
        alone = None
        if config.tree == "vectors":
            stages = ["towers alone", *stages]
            metrics |= start_validation(users, config, view)
            alone = fit_towers(users.to(device), config, view, Stage(progress, stages[0], 0, len(stages)))
        start = begun(users.cpu(), config, view)
        model = start.model.to(device)
        metrics |= start.metrics
        if alone is None:
            metrics |= start_validation(model, config, view)
        model.users.requires_grad_(alone is None)
        rounds = []
        for number in range(config.rounds):
            if number:
                learn_anew(model, config, view)
            place = len(stages) - config.rounds + number
            result = fit_round(model, config, view, number, Stage(progress, stages[place], place, len(stages)))
            if view.ranks.leads:
                rounds.append(Round(result, _quality(model, config, view)))
        if not view.ranks.leads:
            return {}
        return self._write(model.cpu(), config, view, out, Training(alone, rounds), metrics)

    def sections(self, component: Path, evaluation: Mapping[str, Any]) -> list[Section]:
        """Rounds, beams and the top of the tree; nothing for a component of another kind."""
        record = component / TRAINING
        return tdm_sections(json.loads(record.read_text("utf-8"))) if record.exists() else []

    def _write(
        self, model: Tdm, config: TdmConfig, view: TrainView, out: Path, training: Training, started: dict[str, float]
    ) -> dict[str, float]:
        directory = component_directory(out, self.name)
        directory.mkdir(parents=True, exist_ok=True)
        exported = export_user_tower(model.users, directory / TOWER, view.seed)
        if model.users.reads_history:
            write_history_vectors(model.users, directory / HISTORY_VECTORS)
        tree = model.tree.held
        tree.save(directory / TREE)
        node_attention(model).save(directory / TREE)
        save_weights(model.users, directory / WEIGHTS)
        metrics = _metrics(training) | started | {"parity_error": exported.parity_error}
        write_text(directory / TRAINING, tdm_record(training, top_of_tree(tree, view.catalogue, view.train)))
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


def _quality(model: Tdm, config: TdmConfig, view: TrainView) -> list[BeamQuality]:
    """What beams find on a sample of the validation set; nothing without one."""
    if view.validation is None or not len(view.validation):
        return []
    count = min(_ASKED, max(_LEAST_ASKED, _SCORED // len(view.catalogue)))
    targets = sample_of(view.validation, count, view.seed)
    users = targets.users(0, len(targets), view.user_frame)
    vectors = user_vectors(model.users, view.encoder.encode_users(users, trim=True))
    return beam_quality(node_attention(model), Asked(users, vectors, targets.target), config.beam)


def _metrics(training: Training) -> dict[str, float]:
    """What the manifest says: the last round's, and how long each stage was."""
    last = training.rounds[-1].result
    best = next((record for record in last.curve if record.epoch == last.epochs), None)
    metrics = {f"epochs_of_round_{n}": float(one.result.epochs) for n, one in enumerate(training.rounds, start=1)}
    if training.alone is not None:
        metrics["epochs"] = float(training.alone.epochs)
    metrics |= {f"validation_{name}": value for name, value in best.metrics.items()} if best else {}
    metrics["training_seconds"] = sum(result.seconds for result in training.results)
    metrics["samples_per_s"] = last.samples_per_s
    return metrics

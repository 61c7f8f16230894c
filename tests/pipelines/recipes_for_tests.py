"""Recipes for the tests of training, in a module that workers can import."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.config import Config
from recsys.evaluate.section import Section
from recsys.retrieval.static_channel import StaticChannel
from recsys.train.progress import Progress
from recsys.train.view import TrainView


class CountingConfig(Config):
    """One setting, to change."""

    scale: float = 1.0


@dataclass(frozen=True)
class CountingRecipe:
    """Leaves how often each item was chosen, and says what it was given to fit on."""

    name: str = "counting"
    needs: tuple[str, ...] = ()
    dies_once: bool = False
    config_type: type[Config] = CountingConfig

    def fit(
        self, config: Any, view: TrainView, inputs: Mapping[str, Path], out: Path, progress: Progress
    ) -> dict[str, float]:
        """Counts; where asked to, leaves a checkpoint and is killed the first time."""
        attempts = progress.scratch / "attempts"
        attempt = int(attempts.read_text()) + 1 if attempts.exists() else 1
        attempts.write_text(str(attempt))
        if self.dies_once and attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        directory = component_directory(out, self.name)
        directory.mkdir(parents=True)
        counts = np.bincount(view.train.rows, minlength=len(view.catalogue)) * config.scale
        StaticChannel.save(directory, counts.astype(np.float32))
        hashes = {"feature_set_hash": view.features.hash, "catalogue_hash": view.catalogue.hash}
        write_component(
            out, ComponentInfo.model_validate({"name": self.name, "kind": "channel", "type": "static", **hashes})
        )
        progress.update(1, 1, "counted")
        return {
            "attempt": attempt,
            "epochs": view.epochs or 3,
            "epochs_given": view.epochs or 0,
            "train": view.train.size,
            "validation": 0 if view.validation is None else len(view.validation),
            "inputs": len([path for path in inputs.values() if (path / "components").is_dir()]),
        }

    def sections(self, component: Path, evaluation: Mapping[str, Any]) -> list[Section]:
        """Nothing."""
        return []

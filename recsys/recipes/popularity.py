"""Popularity: every item scored by how often, or how recently often, it was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.config import Config
from recsys.data.interactions import Interactions
from recsys.evaluate.section import Section
from recsys.retrieval.static_channel import StaticChannel
from recsys.train.progress import Progress
from recsys.train.view import TrainView
from recsys.types import Floats

_DAY_MS: Final = 86_400_000.0


class PopularityConfig(Config):
    """How to count.

    Attributes:
        half_life_days: a choice this much older than the newest counts half; None = all count alike. Needs real times.
    """

    half_life_days: float | None = Field(default=None, gt=0)


class PopularityRecipe:
    """The channel that answers for everybody, cold users first of all."""

    name = "popularity"
    config_type = PopularityConfig
    needs: tuple[str, ...] = ()

    def fit(
        self,
        config: PopularityConfig,
        view: TrainView,
        inputs: Mapping[str, Path],
        out: Path,
        progress: Progress,
    ) -> dict[str, float]:
        """See `Recipe.fit`."""
        scores = popularity(view.train, len(view.catalogue), config.half_life_days)
        directory = component_directory(out, self.name)
        directory.mkdir(parents=True, exist_ok=True)
        StaticChannel.save(directory, scores)
        metrics = {"items": float(np.count_nonzero(scores)), "interactions": float(view.train.size)}
        write_component(
            out,
            ComponentInfo(
                name=self.name,
                kind="channel",
                type="static",
                feature_set_hash=view.features.hash,
                catalogue_hash=view.catalogue.hash,
                metrics=metrics,
            ),
        )
        progress.update(1, 1, "counted", **metrics)
        return metrics

    def sections(self, component: Path, evaluation: Mapping[str, Any]) -> list[Section]:
        """Nothing beside its row in the table of models."""
        return []


def popularity(train: Interactions, size: int, half_life_days: float | None = None) -> Floats:
    """(N,) how often each row was chosen, old choices counting less where a half-life is given."""
    weights = None
    if half_life_days is not None and train.size:
        age_days = (train.timestamps_ms.max() - train.timestamps_ms) / _DAY_MS
        weights = 0.5 ** (age_days / half_life_days)
    return np.bincount(train.rows, weights, minlength=size).astype(np.float32)

"""A retriever as a colleague would add one: this file, and one line in `recsys.recipes.RECIPES`.

It recommends in the order of the titles, Z first: of no use to anyone but a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.config import Config
from recsys.evaluate.section import Section
from recsys.retrieval.static_channel import StaticChannel
from recsys.train.progress import Progress
from recsys.train.view import TrainView


class AlphabetConfig(Config):
    """From which end of the alphabet."""

    z_first: bool = True


class AlphabetRecipe:
    """Scores every item by the place of its title in the alphabet."""

    name = "alphabet"
    config_type = AlphabetConfig
    needs: tuple[str, ...] = ()

    def fit(
        self, config: AlphabetConfig, view: TrainView, inputs: Mapping[str, Path], out: Path, progress: Progress
    ) -> dict[str, float]:
        """Sorts the titles."""
        place = np.argsort(np.argsort(view.catalogue.titles())).astype(np.float32)
        directory = component_directory(out, self.name)
        directory.mkdir(parents=True)
        StaticChannel.save(directory, place if config.z_first else -place)
        write_component(
            out,
            ComponentInfo(
                name=self.name,
                kind="channel",
                type="static",
                feature_set_hash=view.features.hash,
                catalogue_hash=view.catalogue.hash,
            ),
        )
        progress.update(1, 1, "sorted")
        return {"titles": float(len(place))}

    def sections(self, component: Path, evaluation: Mapping[str, Any]) -> list[Section]:
        """One sentence."""
        return [Section("The alphabet", f"Titles in order, for bundle {evaluation['bundle_version']}.")]

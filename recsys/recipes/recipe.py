"""The seam of the learning lane: a recipe fits one model and writes its components into a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from recsys.config import Config
from recsys.evaluate.section import Section
from recsys.train.progress import Progress
from recsys.train.view import TrainView


class Recipe(Protocol):
    """How to fit a model, what it leaves in the bundle, what it adds to the report.

    A new model is one file with such a class and one line in `recsys.recipes.RECIPES`.
    """

    @property
    def name(self) -> str:
        """What `--only`, the configuration and the pipeline's steps call it."""
        ...

    @property
    def config_type(self) -> type[Config]:
        """The typed configuration; its defaults are the recipe's defaults."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the recipes whose output `fit` reads."""
        ...

    def fit(
        self, config: Any, view: TrainView, inputs: Mapping[str, Path], out: Path, progress: Progress
    ) -> dict[str, float]:
        """Fits and writes `out/components/<component>/…`.

        Args:
            config: an instance of `config_type`.
            view: the training data; with several workers (a configuration that is a TrainerConfig), `view.ranks` says
                which one calls, and what rank 0 writes and returns counts.
            inputs: output directory of each recipe in `needs`.
            out: an existing directory; components go into `out/components/`.
            progress: told what happens; `progress.scratch` outlives a crash, so a second call resumes there.

        Returns:
            Metrics, and what was chosen on validation ("epochs", for one): a refit finds them in `view.chosen`.
        """
        ...

    def sections(self, component: Path, evaluation: Mapping[str, Any]) -> list[Section]:
        """What the report shows of a component.

        Args:
            component: its directory in the bundle, `…/components/<component>`.
            evaluation: the report dictionary built so far.
        """
        ...

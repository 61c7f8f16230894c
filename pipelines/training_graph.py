"""The graph of a training run: one branch a hold-out, one more for the fit on everything."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from pipelines.code_digest import BUNDLING, LEARNING, MERGING, PREPARING, code_digest
from pipelines.presets import PipelineConfig
from pipelines.step import Step
from pipelines.warm_start import Source, StartWork, WarmStart
from pipelines.works import BundleWork, FitWork, MergeWork, PrepareWork
from recsys.data.splits import Holdout
from recsys.errors import ConfigError, UsageError
from recsys.features.definition import FeatureDefinition
from recsys.recipes import RECIPES
from recsys.recipes.recipe import Recipe
from recsys.train.config import TrainerConfig

ALL: Final = "all"
"""The branch that is fitted on everything given."""
FIT: Final = "fit:"
"""What the name of a step that fits a model begins with; recipe and branch follow."""
BUNDLES_FOLDER: Final = "bundles"


class TrainingGraph:
    """The steps of a training run, and which of them gives the bundle to serve.

    Args:
        config: the whole configuration.
        definition: the features, decided.
        data, out: absolute paths of the dataset and of the run.
        warm: the earlier run whose weights the fits begin with; None = from scratch.

    Raises:
        UsageError: for hold-outs that contradict each other, or that the earlier run has no twin for.
        ConfigError: for a recipe that does not exist.
    """

    def __init__(
        self,
        config: PipelineConfig,
        definition: FeatureDefinition,
        data: Path,
        out: Path,
        warm: WarmStart | None = None,
    ) -> None:
        self._config, self._definition, self._data, self._out = config, definition, data, out
        self._warm = warm
        self._holdouts = _held_out(config.holdouts)
        self._recipes = closure_of_needs(config.recipes)
        if warm is not None:
            warm.refuse_without_weights(self._recipes)
        self.steps: list[Step] = []
        self.twins = {str(holdout.protocol): f"bundle@{holdout}" for holdout in self._holdouts if holdout.protocol}
        self.refit = config.refit or "none" in config.holdouts
        for holdout in reversed(self._holdouts):  # the first last: without a refit its bundle names the others
            self._add_branch(str(holdout), holdout)
        if self.refit:
            self._add_branch(ALL, Holdout("none"))
        self.served = f"bundle@{ALL if self.refit else self._holdouts[0]}"

    def _add_branch(self, branch: str, holdout: Holdout) -> None:
        everything = branch == ALL
        prepared = f"prepare@{branch}"
        self.steps.append(
            Step(
                name=prepared,
                work=PrepareWork(self._data, str(holdout), self._definition, everything),
                config={"definition": self._definition.model_dump(mode="json"), "holdout": str(holdout)},
                code=code_digest("pipelines.prepared", PREPARING),
            )
        )
        source = self._warm.source(holdout, everything=everything) if self._warm is not None else None
        if source is not None:
            self._add_start(branch, holdout, source)
        for name in self._recipes:
            self._add_fit(name, branch, f"{FIT}{name}@{self._holdouts[0]}" if everything else None, source)
        if not everything:
            self._add_merge(branch)
        if everything or holdout.protocol is not None:
            self._add_bundle(branch, self._twins_of(branch), source)

    def _add_start(self, branch: str, holdout: Holdout, source: Source) -> None:
        taken = tuple(file for name in self._recipes for file in source.begun_with(name))
        self.steps.append(
            Step(
                name=f"start@{branch}",
                work=StartWork(self._data, str(holdout), branch == ALL, source.path, taken),
                config={"bundle": source.manifest.version, "holdout": str(holdout)},
                code=code_digest("pipelines.warm_start", PREPARING),
            )
        )

    def _twins_of(self, branch: str) -> dict[str, str]:
        """The bundles that answer for protocols that this branch has seen the test of."""
        if branch == ALL:
            return self.twins
        first = branch == str(self._holdouts[0]) and not self.refit
        return {protocol: step for protocol, step in self.twins.items() if first and step != f"bundle@{branch}"}

    def _add_fit(self, name: str, branch: str, twin: str | None, source: Source | None) -> None:
        recipe, config = RECIPES[name], self._config.of(name)
        needs = {need: f"{FIT}{need}@{branch}" for need in recipe.needs}
        light = name in self._config.light
        settings: dict[str, JsonValue] = {"recipe": config.model_dump(mode="json"), "seed": self._config.seed}
        inputs = [f"prepare@{branch}", *needs.values(), *([twin] if twin else [])]
        start = source if source is not None and source.begun_with(name) else None
        if start is not None:
            settings["warm_start"] = start.content(name)
            inputs.append(f"start@{branch}")
        self.steps.append(
            Step(
                name=f"{FIT}{name}@{branch}",
                work=FitWork(
                    recipe, config, self._config.seed, f"prepare@{branch}", needs, twin, start.path if start else None
                ),
                config=settings,
                inputs=tuple(inputs),
                cpus=1 if light else 0,
                gpus=0 if light else 1,
                code=code_digest(_module_of(recipe), LEARNING),
                workers=self._config.workers if issubclass(recipe.config_type, TrainerConfig) else 1,
            )
        )

    def _add_merge(self, branch: str) -> None:
        fits = tuple(f"{FIT}{name}@{branch}" for name in self._recipes)
        self.steps.append(
            Step(
                name=f"merge@{branch}",
                work=MergeWork(f"prepare@{branch}", fits),
                inputs=(f"prepare@{branch}", *fits),
                code=code_digest("recsys.evaluate.cascade_choice", MERGING),
            )
        )

    def _add_bundle(self, branch: str, twins: Mapping[str, str], source: Source | None) -> None:
        fits = tuple(f"{FIT}{name}@{branch}" for name in self._recipes)
        merge = f"merge@{self._holdouts[0] if branch == ALL else branch}"
        recorded = self._config.recorded(self._recipes)
        if source is not None:
            recorded["warm_start"] = source.manifest.version
        self.steps.append(
            Step(
                name=f"bundle@{branch}",
                work=BundleWork(self._out / BUNDLES_FOLDER, recorded, f"prepare@{branch}", fits, merge, twins),
                config=recorded,
                inputs=(f"prepare@{branch}", *fits, merge, *twins.values()),
                code=code_digest("recsys.bundle.publish", BUNDLING),
            )
        )


def refuse_unusable(config: PipelineConfig) -> None:
    """The refusals that need no dataset.

    Raises:
        UsageError, ConfigError: as TrainingGraph.
    """
    _held_out(config.holdouts)
    closure_of_needs(config.recipes)


def closure_of_needs(names: Sequence[str]) -> list[str]:
    """The recipes named and all they need, each after its needs.

    Raises:
        ConfigError: for a name that is no recipe, or recipes that need each other in a circle.
    """
    ordered: list[str] = []

    def add(name: str, above: tuple[str, ...]) -> None:
        if name not in RECIPES:
            asked = f"{above[-1]} needs {name!r}" if above else f"recipe {name!r}"
            raise ConfigError(f"{asked}: there is no such recipe; there are: {', '.join(RECIPES)}")
        if name in above:
            raise ConfigError(f"recipes need each other in a circle: {' → '.join((*above, name))}")
        for need in RECIPES[name].needs:
            add(need, (*above, name))
        if name not in ordered:
            ordered.append(name)

    for name in names:
        add(name, ())
    if not ordered:
        raise ConfigError(f"there is no recipe to fit; name some of: {', '.join(RECIPES)}")
    return ordered


def _held_out(texts: Sequence[str]) -> list[Holdout]:
    """The hold-outs to fit twins for; with none that has a test, one that chooses epochs alone."""
    holdouts = list(dict.fromkeys(Holdout.parse(text) for text in texts))
    tested = [holdout for holdout in holdouts if holdout.protocol is not None]
    protocols = [holdout.protocol for holdout in tested]
    if len(set(protocols)) < len(protocols):
        given = " and ".join(f"--holdout {holdout}" for holdout in tested)
        raise UsageError(f"{given}: one hold-out a protocol; train the other one into another --out")
    return tested or [Holdout("none")]


def _module_of(recipe: Recipe) -> str:
    module = inspect.getmodule(type(recipe))
    return module.__name__ if module is not None else type(recipe).__module__

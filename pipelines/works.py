"""What the steps of a training run do: prepare the data, fit a recipe, learn the merge, assemble a bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import JsonValue

import recsys
from pipelines.prepared import Prepared, prepare
from pipelines.step import LEAVES, Result, StepContext, read_done
from recsys.bundle.bundle import open_channel, open_scorer
from recsys.bundle.component import components_below, read_component
from recsys.bundle.manifest import FEATURES_FOLDER, USERS_FOLDER, DatasetReference, Manifest, SplitReference
from recsys.bundle.publish import assemble, verify
from recsys.bundle.users import write_users
from recsys.cascade.cascade import CascadeConfig
from recsys.config import Config, parse_config
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout
from recsys.errors import BundleError
from recsys.evaluate.cascade_choice import choose_cascade
from recsys.features.definition import FeatureDefinition
from recsys.recipes.recipe import Recipe
from recsys.train.ranks import ALONE, Ranks

CASCADE: Final = "cascade"
"""Key of the result of `merge@H`: what it has chosen, as fields of a CascadeConfig."""


@dataclass(frozen=True, slots=True)
class PrepareWork:
    """Step `prepare@H`: split the data, fit and encode the features."""

    data: Path
    holdout: str
    definition: FeatureDefinition
    everything: bool

    def __call__(self, context: StepContext) -> Result:
        """Writes what pipelines.prepared opens."""
        info = prepare(
            Dataset.open(self.data),
            Holdout.parse(self.holdout),
            self.definition,
            context.out,
            everything=self.everything,
        )
        return {"train": info.train, "validation": info.validation}


@dataclass(frozen=True, slots=True)
class FitWork:
    """Step `fit:<recipe>@H`: fit one recipe.

    Attributes:
        recipe, config: what to fit and how.
        prepared: name of the step with the data.
        needs: recipe name → name of the step with its output.
        twin: name of the step whose choices (the number of epochs, for one) a refit takes over.
        start: bundle of an earlier run to begin from.
    """

    recipe: Recipe
    config: Config
    seed: int
    prepared: str
    needs: Mapping[str, str]
    twin: str | None
    start: Path | None = None

    def __call__(self, context: StepContext) -> Result:
        """Writes components/ and returns the recipe's metrics."""
        if context.workers == 1:
            return self.fit(context, ALONE)
        from pipelines.worker_group import together  # Ray, of which this module is otherwise free

        return together(self.fit, context)

    def fit(self, context: StepContext, ranks: Ranks) -> Result:
        """The whole of the work, or what one of several workers does of it."""
        data = Prepared.open(context.inputs[self.prepared])
        view = data.view(seed=self.seed, threads=context.threads, device=context.device, chosen=self._chosen(context))
        inputs = {name: context.inputs[step] for name, step in self.needs.items()}
        view = replace(view, start=self.start, ranks=ranks)
        return self.recipe.fit(self.config, view, inputs, context.out, context.progress)

    def _chosen(self, context: StepContext) -> Result:
        done = None if self.twin is None else read_done(context.inputs[self.twin])
        return {} if done is None else done.result


@dataclass(frozen=True, slots=True)
class MergeWork:
    """Step `merge@H`: learn on validation how lists are merged, and whether to pre-rank.

    Attributes:
        prepared: name of the step with the data.
        fits: names of the steps with components.
    """

    prepared: str
    fits: tuple[str, ...]

    def __call__(self, context: StepContext) -> Result:
        """Returns what was chosen, and the figures it was chosen by."""
        data = Prepared.open(context.inputs[self.prepared])
        view = data.view(seed=0, threads=context.threads, device=context.device)
        folders = [path for fit in self.fits for path in components_below(context.inputs[fit])]
        infos = [(read_component(path), path) for path in folders]
        channels = {
            info.name: open_channel(info, path, view.catalogue, view.encoder)
            for info, path in infos
            if info.kind == "channel"
        }
        scorers = [
            open_scorer(info, path, view.catalogue, view.encoder, channels)
            for info, path in infos
            if info.kind == "scorer"
        ]
        chosen = choose_cascade(channels, scorers, view.validation, view.user_frame)
        return {CASCADE: chosen.config.model_dump(mode="json"), **chosen.metrics}


@dataclass(frozen=True, slots=True)
class BundleWork:
    """Step `bundle@H`: assemble a bundle from the fitted components, and verify it.

    Attributes:
        bundles: where versions lie.
        config: the configuration that the manifest records.
        prepared: name of the step with the data.
        fits: names of the steps with components, in the order of the recipes.
        merge: name of the step with what the cascade is to be; a refit's is its twin's.
        twins: protocol → name of the step with that twin.
    """

    bundles: Path
    config: Mapping[str, JsonValue]
    prepared: str
    fits: tuple[str, ...]
    merge: str
    twins: Mapping[str, str]

    def __call__(self, context: StepContext) -> Result:
        """Leaves bundles/<version> and returns the version."""
        data = Prepared.open(context.inputs[self.prepared])
        components = [path for fit in self.fits for path in components_below(context.inputs[fit])]
        context.progress.update(0, 2, "assembling")
        path = assemble(self.bundles, self._manifest(data, context), components, _content_writer(data))
        context.progress.update(1, 2, "verifying")
        verify(path)
        # the step's folder takes its final name beside its temporary one, so the way from it is the same
        return {"version": path.name, LEAVES: os.path.relpath(path, context.out)}

    def _manifest(self, data: Prepared, context: StepContext) -> Manifest:
        return Manifest(
            version="",
            created="",
            package_version=recsys.__version__,
            feature_set_hash=data.features.hash,
            catalogue_hash=data.catalogue.hash,
            dataset=DatasetReference(
                name=data.info.dataset, content_hash=data.info.content_hash, user_ids=data.info.user_ids
            ),
            split=SplitReference(
                holdout=data.info.holdout,
                protocol=data.info.protocol,
                cut_off_ms=data.info.cut_off_ms,
                refit=data.info.everything,
            ),
            feature_definition=data.features.definition.model_dump(mode="json"),
            cascade=parse_config(CascadeConfig, _cascade(context.inputs[self.merge]), self.merge),
            config=dict(self.config),
            twins={protocol: _version(context.inputs[step]) for protocol, step in self.twins.items()},
            files={},
        )


def _content_writer(data: Prepared) -> Callable[[Path], None]:
    """Writes items, features and users of a bundle."""

    def write(folder: Path) -> None:
        data.catalogue.save(folder)
        data.features.save(folder / FEATURES_FOLDER)
        write_users(folder / USERS_FOLDER, interactions=data.known(), catalogue=data.catalogue, users=data.users())

    return write


def _cascade(merge_step: Path) -> dict[str, JsonValue]:
    """What the merge step has chosen."""
    done = read_done(merge_step)
    chosen = {} if done is None else done.result[CASCADE]
    assert isinstance(chosen, dict)
    return chosen


def _version(bundle_step: Path) -> str:
    done = read_done(bundle_step)
    if done is None:
        raise BundleError(f"{bundle_step}: its bundle is gone; run `recsys train` again")
    return str(done.result["version"])

"""Training from a dataset to a published bundle: which steps there are, and the run that carries them out."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

import recsys
from pipelines.code_digest import BUNDLING, LEARNING, PREPARING, code_digest
from pipelines.display import Display
from pipelines.graph import StepRun, run_graph
from pipelines.prepared import Prepared, prepare
from pipelines.presets import PipelineConfig
from pipelines.step import LEAVES, Result, Step, StepContext, read_done
from recsys.bundle.component import components_below
from recsys.bundle.manifest import FEATURES_FOLDER, USERS_FOLDER, DatasetReference, Manifest, SplitReference
from recsys.bundle.publish import assemble, current, publish, verify
from recsys.bundle.users import write_users
from recsys.config import Config
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout
from recsys.errors import BundleError, ConfigError, PreconditionError, UsageError
from recsys.features.definition import FeatureDefinition
from recsys.files import write_text
from recsys.recipes import RECIPES
from recsys.recipes.recipe import Recipe

ALL: Final = "all"
"""The branch of the graph that is fitted on everything given."""
BUNDLES_FOLDER: Final = "bundles"
RUN_FILE: Final = "run.json"


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What a training run left.

    Attributes:
        steps: finished steps by name, in the order of the graph.
        bundles: OUT/bundles.
        version: the version to serve: the refit, or the first hold-out's.
        twins: protocol → version of the bundle that has not seen that protocol's test.
        published: whether CURRENT names `version` now.
    """

    steps: dict[str, StepRun]
    bundles: Path
    version: str
    twins: dict[str, str]
    published: bool


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
        twin: name of the step whose number of epochs a refit takes over.
    """

    recipe: Recipe
    config: Config
    seed: int
    prepared: str
    needs: Mapping[str, str]
    twin: str | None

    def __call__(self, context: StepContext) -> Result:
        """Writes components/ and returns the recipe's metrics."""
        data = Prepared.open(context.inputs[self.prepared])
        view = data.view(epochs=self._epochs(context), seed=self.seed, threads=context.threads, device=context.device)
        inputs = {name: context.inputs[step] for name, step in self.needs.items()}
        metrics = self.recipe.fit(self.config, view, inputs, context.out, context.progress)
        return dict(metrics)

    def _epochs(self, context: StepContext) -> int | None:
        done = None if self.twin is None else read_done(context.inputs[self.twin])
        epochs = None if done is None else done.result.get("epochs")
        return int(epochs) if isinstance(epochs, int | float) else None


@dataclass(frozen=True, slots=True)
class BundleWork:
    """Step `bundle@H`: assemble a bundle from the fitted components, and verify it.

    Attributes:
        bundles: where versions lie.
        config: the configuration that the manifest records.
        prepared: name of the step with the data.
        fits: names of the steps with components, in the order of the recipes.
        twins: protocol → name of the step with that twin.
    """

    bundles: Path
    config: Mapping[str, JsonValue]
    prepared: str
    fits: tuple[str, ...]
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
            dataset=DatasetReference(name=data.info.dataset, content_hash=data.info.content_hash),
            split=SplitReference(
                holdout=data.info.holdout,
                protocol=data.info.protocol,
                cut_off_ms=data.info.cut_off_ms,
                refit=data.info.everything,
            ),
            feature_definition=data.features.definition.model_dump(mode="json"),
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


def _version(bundle_step: Path) -> str:
    done = read_done(bundle_step)
    if done is None:
        raise BundleError(f"{bundle_step}: its bundle is gone; run `recsys train` again")
    return str(done.result["version"])


class TrainingGraph:
    """The steps of a training run, and which of them gives the bundle to serve.

    Args:
        config: the whole configuration.
        definition: the features, decided.
        data, out: absolute paths of the dataset and of the run.

    Raises:
        UsageError: for hold-outs that contradict each other.
        ConfigError: for a recipe that does not exist.
    """

    def __init__(self, config: PipelineConfig, definition: FeatureDefinition, data: Path, out: Path) -> None:
        self._config, self._definition, self._data, self._out = config, definition, data, out
        self._holdouts = _held_out(config.holdouts)
        self._recipes = closure_of_needs(config.recipes)
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
        for name in self._recipes:
            self._add_fit(name, branch, f"fit:{name}@{self._holdouts[0]}" if everything else None)
        if everything or holdout.protocol is not None:
            self._add_bundle(branch, self._twins_of(branch))

    def _twins_of(self, branch: str) -> dict[str, str]:
        """The bundles that answer for protocols that this branch has seen the test of."""
        if branch == ALL:
            return self.twins
        first = branch == str(self._holdouts[0]) and not self.refit
        return {protocol: step for protocol, step in self.twins.items() if first and step != f"bundle@{branch}"}

    def _add_fit(self, name: str, branch: str, twin: str | None) -> None:
        recipe, config = RECIPES[name], self._config.of(name)
        needs = {need: f"fit:{need}@{branch}" for need in recipe.needs}
        light = name in self._config.light
        self.steps.append(
            Step(
                name=f"fit:{name}@{branch}",
                work=FitWork(recipe, config, self._config.seed, f"prepare@{branch}", needs, twin),
                config={"recipe": config.model_dump(mode="json"), "seed": self._config.seed},
                inputs=(f"prepare@{branch}", *needs.values(), *([twin] if twin else [])),
                cpus=1 if light else 0,
                gpus=0 if light else 1,
                code=code_digest(_module_of(recipe), LEARNING),
            )
        )

    def _add_bundle(self, branch: str, twins: Mapping[str, str]) -> None:
        fits = tuple(f"fit:{name}@{branch}" for name in self._recipes)
        recorded = self._config.recorded(self._recipes)
        self.steps.append(
            Step(
                name=f"bundle@{branch}",
                work=BundleWork(self._out / BUNDLES_FOLDER, recorded, f"prepare@{branch}", fits, twins),
                config=recorded,
                inputs=(f"prepare@{branch}", *fits, *twins.values()),
                code=code_digest("recsys.bundle.publish", BUNDLING),
            )
        )


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


def run_training(
    config: PipelineConfig,
    data: Path,
    out: Path,
    *,
    display: Display,
    holdouts: Sequence[str] = (),
    refit: bool | None = None,
    publish_it: bool = True,
    only: Sequence[str] = (),
    address: str | None = None,
) -> TrainingRun:
    """Carries out a training run; a second call continues where the first one stopped.

    Args:
        config: from a preset or a file.
        data: a dataset directory.
        out: gets steps/, bundles/ and run.json.
        display: told of what happens.
        holdouts: where given, in place of those of `config`.
        refit: where given, in place of that of `config`.
        only: recipes to fit, where given, in place of those of `config`.
        publish_it: whether the result becomes the version to serve.
        address: a Ray cluster that shares `data` and `out`; None = this machine.

    Raises:
        InputError: for data, settings or an `out` that cannot be used.
        TrainingError: when a step fails; what was done before it stays done.
    """
    config = config.replaced(holdouts=holdouts, refit=refit, recipes=only)
    dataset = Dataset.open(data)
    graph = TrainingGraph(config, config.definition(dataset), data.resolve(), out.resolve())
    for holdout in config.holdouts:
        _refuse_time_split(dataset, Holdout.parse(holdout))
    with _writing_to(out.resolve()) as folder:
        record = _Record(folder / RUN_FILE, config, dataset)
        runs = run_graph(
            graph.steps,
            folder,
            dataset_hash=dataset.info.content_hash,
            display=display,
            address=address,
            cpus=config.threads,
            finished=record.add,
        )
        bundles = folder / BUNDLES_FOLDER
        version = str(runs[graph.served].result["version"])
        twins = {protocol: str(runs[step].result["version"]) for protocol, step in graph.twins.items()}
        if publish_it:
            display.say(f"publishing {version}")
            publish(bundles, version)
        published = publish_it or _serves(bundles, version)
        record.end(version, twins, published)
    return TrainingRun(runs, out / BUNDLES_FOLDER, version, twins, published)


def _refuse_time_split(dataset: Dataset, holdout: Holdout) -> None:
    """The same refusal that a worker would give, before Ray is started."""
    if holdout.kind == "time" and dataset.info.time != "real":
        raise UsageError(
            f"--holdout {holdout}: {dataset.path} has no real times, only the order of events; use --holdout last"
        )


def _serves(bundles: Path, version: str) -> bool:
    try:
        return current(bundles).name == version
    except BundleError:
        return False


@contextmanager
def _writing_to(out: Path) -> Iterator[Path]:
    """Holds the run's directory, which one run at a time may write to.

    Raises:
        UsageError: when it cannot be written to.
        PreconditionError: when another run holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a")
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written to ({error.strerror}); give another directory") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreconditionError(f"--out {out}: another training run is writing there; wait for its end") from None
        yield out


class _Record:
    """run.json: configuration, steps, seconds and metrics, brought up to date after every step."""

    def __init__(self, path: Path, config: PipelineConfig, dataset: Dataset) -> None:
        self._path = path
        self._content: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "dataset": {"name": dataset.info.name, "content_hash": dataset.info.content_hash},
            "package_version": recsys.__version__,
            "steps": {},
        }

    def add(self, run: StepRun) -> None:
        """Records a finished step."""
        self._content["steps"][run.name] = {
            "key": run.key,
            "seconds": run.seconds,
            "cached": run.cached,
            "result": dict(run.result),
        }
        self._write()

    def end(self, version: str, twins: Mapping[str, str], published: bool) -> None:
        """Records what the run ended with."""
        self._content |= {"version": version, "twins": dict(twins), "published": published}
        self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._content, indent=2) + "\n")

"""Training from a dataset to a published bundle: `run_training`, and what it records."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import recsys
from pipelines.display import Display
from pipelines.graph import StepRun, run_graph
from pipelines.presets import PipelineConfig
from pipelines.training_graph import BUNDLES_FOLDER, FIT, TrainingGraph
from pipelines.warm_start import WarmStart
from recsys.bundle.publish import current, publish
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout
from recsys.errors import BundleError, PreconditionError, UsageError
from recsys.files import write_text

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
    workers: int | None = None,
    warm_start: Path | None = None,
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
        workers: where given, in place of those of `config`.
        warm_start: the OUT of an earlier run, or a bundle, whose weights the fits begin with.

    Raises:
        InputError: for data, settings or an `out` that cannot be used.
        TrainingError: when a step fails; what was done before it stays done.
    """
    config = config.replaced(holdouts=holdouts, refit=refit, recipes=only, workers=workers)
    dataset = Dataset.open(data)
    warm = None
    if warm_start is not None:
        warm = WarmStart.open(warm_start, out=out, dataset_hash=dataset.info.content_hash)
    graph = TrainingGraph(config, config.definition(dataset), data.resolve(), out.resolve(), warm)
    for holdout in config.holdouts:
        _refuse_time_split(dataset, Holdout.parse(holdout))
    with _writing_to(out.resolve()) as folder:
        record = _Record(folder / RUN_FILE, config, dataset)
        if warm is not None:
            display.say(f"starting from {warm.served.manifest.version}")
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
    """run.json, brought up to date after every step.

    It holds the configuration, the seconds since the run began, each step with its own, and under
    `metrics` what each model measured in each branch ("two_tower@last").
    """

    def __init__(self, path: Path, config: PipelineConfig, dataset: Dataset) -> None:
        self._path, self._started = path, time.monotonic()
        self._content: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "dataset": {"name": dataset.info.name, "content_hash": dataset.info.content_hash},
            "package_version": recsys.__version__,
            "seconds": 0.0,
            "steps": {},
            "metrics": {},
        }

    def add(self, run: StepRun) -> None:
        """Records a finished step."""
        self._content["steps"][run.name] = {
            "key": run.key,
            "seconds": run.seconds,
            "cached": run.cached,
            "result": dict(run.result),
        }
        if run.name.startswith(FIT):
            self._content["metrics"][run.name.removeprefix(FIT)] = dict(run.result)
        self._write()

    def end(self, version: str, twins: Mapping[str, str], published: bool) -> None:
        """Records what the run ended with."""
        self._content |= {"version": version, "twins": dict(twins), "published": published}
        self._write()

    def _write(self) -> None:
        self._content["seconds"] = round(time.monotonic() - self._started, 3)
        write_text(self._path, json.dumps(self._content, indent=2) + "\n")

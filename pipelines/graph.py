"""The graph: which steps there are to do, each as soon as its inputs are there, those done before passed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from pipelines.display import Display
from pipelines.step import Step, Task, key_of, read_done
from recsys.errors import ConfigError

STEPS_FOLDER: Final = "steps"
WORK_FOLDER: Final = ".work"
POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class StepRun:
    """A finished step of a run.

    Attributes:
        path: OUT/steps/<name>/<key>.
        seconds: how long it took, in this run or in the one that did it.
        cached: whether an earlier run did it.
        result: what it returned.
    """

    name: str
    key: str
    path: Path
    seconds: float
    cached: bool
    result: Mapping[str, JsonValue]


def run_graph(
    steps: Sequence[Step],
    out: Path,
    *,
    dataset_hash: str,
    display: Display,
    address: str | None = None,
    cpus: int = 0,
    finished: Callable[[StepRun], None] = lambda run: None,
) -> dict[str, StepRun]:
    """Carries out the steps on Ray and returns them by name.

    Args:
        steps: every step after its inputs.
        out: outputs go to out/steps/<name>/<key>.
        dataset_hash: content hash of the data that all steps depend on.
        display: told of starts, progress and ends.
        address: a Ray cluster that shares `out` and the data; None = this machine alone.
        cpus: cores of a local Ray, 0 = those this process may use.
        finished: called after each step.

    Raises:
        ConfigError: for two steps with one name, or an input that is not there.
        RecsysError: the first one that a step raises; what was done before stays done.
    """
    keys = plan(steps, dataset_hash)
    runs: dict[str, StepRun] = {}
    folder = out / STEPS_FOLDER
    for step in steps:
        target = folder / step.name / keys[step.name]
        done = read_done(target)
        if done is not None and all(name in runs for name in step.inputs):
            runs[step.name] = StepRun(step.name, done.key, target, done.seconds, True, done.result)
            display.cached(step.name)
            finished(runs[step.name])
    waiting = [step for step in steps if step.name not in runs]
    if waiting:
        _Execution(out, keys, runs, display, finished).run(waiting, address, cpus)
    return {step.name: runs[step.name] for step in steps}


def plan(steps: Sequence[Step], dataset_hash: str) -> dict[str, str]:
    """The key of every step.

    Raises:
        ConfigError: for two steps with one name, or an input that no earlier step gives.
    """
    keys: dict[str, str] = {}
    for step in steps:
        if step.name in keys:
            raise ConfigError(f"two steps are called {step.name!r}; give one of them another name")
        for name in step.inputs:
            if name not in keys:
                raise ConfigError(f"step {step.name!r} needs {name!r}, which no step before it gives")
        keys[step.name] = key_of(step, keys, dataset_hash)
    return keys


class _Execution:
    """The loop that hands out steps whose inputs are there and follows those that run."""

    def __init__(
        self,
        out: Path,
        keys: Mapping[str, str],
        runs: dict[str, StepRun],
        display: Display,
        finished: Callable[[StepRun], None],
    ) -> None:
        self._out, self._keys, self._runs = out, keys, runs
        self._display, self._finished = display, finished

    def run(self, steps: Sequence[Step], address: str | None, cpus: int) -> None:
        """Carries out `steps`; starts Ray for it."""
        from pipelines.cluster import ray_cluster  # a run that finds everything done needs no Ray

        waiting = list(steps)
        running: dict[Any, Task] = {}
        with ExitStack() as stack:
            self._display.say("starting Ray" if address is None else f"connecting to Ray at {address}")
            cluster = stack.enter_context(ray_cluster(address, cpus or len(os.sched_getaffinity(0))))
            for step in waiting:
                cluster.threads(step)  # refused before anything is started
            while waiting or running:
                for step in [step for step in waiting if all(name in self._runs for name in step.inputs)]:
                    waiting.remove(step)
                    task = self._task(step, cluster.threads(step), cluster.device(step))
                    running[cluster.submit(task)] = task
                for handle in cluster.finished(list(running), POLL_SECONDS):
                    task = running.pop(handle)
                    done = cluster.result(handle, task)
                    run = StepRun(done.name, done.key, task.target, done.seconds, False, done.result)
                    self._runs[run.name] = run
                    self._display.finished(run.name, run.seconds)
                    self._finished(run)
                for task in running.values():
                    self._display.follow(task.step.name, task.work_folder)

    def _task(self, step: Step, threads: int, device: str) -> Task:
        key = self._keys[step.name]
        return Task(
            step=step,
            key=key,
            target=self._out / STEPS_FOLDER / step.name / key,
            work_folder=self._out / WORK_FOLDER / step.name / key,
            inputs={name: self._runs[name].path for name in step.inputs},
            input_keys={name: self._keys[name] for name in step.inputs},
            threads=threads,
            device=device,
        )

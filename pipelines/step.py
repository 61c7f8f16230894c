"""A step of a pipeline: its name, what its output depends on, what it needs, and how it is carried out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from pydantic import Field, JsonValue

import recsys
from recsys.config import Config
from recsys.files import replacing_directory, write_text
from recsys.train.progress import Progress

DONE_FILE: Final = "step.json"
"""The last file written into a step's output; an output without it does not count."""
PROGRESS_FILE: Final = "progress.jsonl"
UPDATES_A_SECOND: Final = 4

LEAVES: Final = "leaves"
"""Key of a result: a path from the step's folder to what it left outside; without that it is not done."""

Result = Mapping[str, JsonValue]
"""What a step has to say beside its files: metrics, a version, counts."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step is given to work with.

    Attributes:
        out: an empty directory for its output; takes its final name when the step is done.
        inputs: outputs of the steps it depends on, by their names.
        progress: where to tell how far it is, with a scratch directory that outlives a crash.
        threads: CPU threads it may use, in each worker where it has several.
        device: "cuda" when a GPU was set aside for it, else "cpu".
        workers: processes to divide it among.
    """

    out: Path
    inputs: Mapping[str, Path]
    progress: Progress
    threads: int
    device: str
    workers: int = 1


class Work(Protocol):
    """What a step does: a picklable callable."""

    def __call__(self, context: StepContext) -> Result:
        """Writes files into `context.out` and returns its result."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the graph.

    Attributes:
        name: unique in the graph, for example "fit:two_tower@last".
        work: carried out in a worker.
        config: everything beside the inputs that its output depends on.
        inputs: names of the steps whose output it reads.
        cpus, gpus: set aside for it while it runs; cpus = 0 means all of one machine.
        code: digest of the code it runs, so that changed code is run again.
        workers: processes that its work is divided among, which then get all CPUs and GPUs of the cluster.
    """

    name: str
    work: Work
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    cpus: int = 1
    gpus: int = 0
    code: str = ""
    workers: int = 1


class Done(Config):
    """What `step.json` holds, the marker of a finished step.

    Attributes:
        name, key: which step, and the hash of all that its output depends on.
        config: its part of the configuration.
        inputs: step name → key of each input.
        seconds: how long the attempt that finished took.
        result: what the step returned.
    """

    name: str
    key: str
    config: dict[str, JsonValue] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    seconds: float
    result: dict[str, JsonValue] = Field(default_factory=dict)


def key_of(step: Step, input_keys: Mapping[str, str], dataset_hash: str) -> str:
    """Hex hash of all that a step's output depends on: equal keys, equal outputs.

    Not of the number of workers, as not of threads or the device: the batches and the steps are the same, up to
    rounding and what dropout draws (and large tables, which several GPUs take dense). So a fit goes on, or stands, on
    a cluster of another size.
    """
    parts = {
        "name": step.name,
        "config": step.config,
        "inputs": {name: input_keys[name] for name in step.inputs},
        "dataset": dataset_hash,
        "version": recsys.__version__,
        "code": step.code,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Task:
    """A step with its key and places on disk, as it is sent to a worker.

    Attributes:
        target: where the finished output will lie.
        work_folder: scratch and progress of this step and key; outlives a crash, gone when done.
    """

    step: Step
    key: str
    target: Path
    work_folder: Path
    inputs: Mapping[str, Path]
    input_keys: Mapping[str, str]
    threads: int
    device: str


def read_done(target: Path) -> Done | None:
    """The marker of a finished output, None when the step has yet to be done."""
    try:
        done = Done.model_validate_json((target / DONE_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    left = done.result.get(LEAVES)
    return done if left is None or (target / str(left)).exists() else None


def carry_out(task: Task) -> Done:
    """Does a step's work in this process and gives its output its name in one rename.

    Killed at any moment, the output is there whole or not at all; the next attempt finds what the
    step kept in its scratch directory.
    """
    if done := read_done(task.target):
        return done
    use_threads(task.threads)
    progress = ReportedProgress(task.work_folder)
    started = time.monotonic()
    with replacing_directory(task.target) as out:
        context = StepContext(out, task.inputs, progress, task.threads, task.device, task.step.workers)
        result = task.step.work(context)
        done = Done(
            name=task.step.name,
            key=task.key,
            config=dict(task.step.config),
            inputs=dict(task.input_keys),
            seconds=round(time.monotonic() - started, 3),
            result=dict(result),
        )
        write_text(out / DONE_FILE, done.model_dump_json(indent=2) + "\n")
    shutil.rmtree(task.work_folder, ignore_errors=True)
    return done


def use_threads(threads: int) -> None:
    """Lets numerical libraries use so many threads, those loaded already and those loaded later."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    if (faiss := sys.modules.get("faiss")) is not None:
        faiss.omp_set_num_threads(threads)


class ReportedProgress:
    """A step's progress as lines of a file that the driver follows.

    A file, since outputs are files that driver and workers share anyway: no process of its own, and
    what a dead worker said last is still there.
    """

    def __init__(self, folder: Path) -> None:
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._file = folder / PROGRESS_FILE
        self._last = 0.0

    def update(self, done: int, total: int, message: str, **metrics: float) -> None:
        """Says that `done` of `total` units are finished; calls that follow too soon are dropped."""
        now = time.monotonic()
        if now - self._last < 1 / UPDATES_A_SECOND and done < total:
            return
        self._last = now
        line = json.dumps({"done": done, "total": total, "message": message, "metrics": metrics})
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

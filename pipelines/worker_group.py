"""Ray Train: one piece of work carried out by several workers that have joined one torch.distributed group."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

from pipelines.cluster import (
    ATTEMPTS_AFTER_A_CRASH,
    TRACEBACK_FILE,
    Cluster,
    threads_each,
    wait_until_dead_nodes_are_known,
)
from pipelines.step import Result, StepContext, use_threads
from recsys.errors import PreconditionError, RecsysError, TrainingError
from recsys.files import write_text
from recsys.train.progress import QuietProgress
from recsys.train.ranks import Ranks, joined_ranks

# Read when a group is started.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a node that is taken away is a node that died

from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

Part: TypeAlias = Callable[[StepContext, Ranks], Result]
"""What each worker does; it is told its rank, and rank 0's result is that of all."""

_RAY_FOLDER: Final = "ray"


def together(part: Part, context: StepContext) -> Result:
    """Has `context.workers` workers do their part, and returns what rank 0 returned.

    When a worker dies, alone or with its node, all are started again on what the cluster then has, and a part that
    keeps checkpoints in the scratch directory goes on from there. Ray Train can repeat by itself, but it would repeat
    a user's mistake too, and wait forever for a node that is gone.

    Raises:
        RecsysError: the first one that a worker raised.
        UsageError: when the cluster cannot hold the workers, or not any more.
        TrainingError: when they all failed in another way, or died too often.
    """
    attempts = 0
    while True:
        try:
            return _attempt(part, context)
        except WorkerGroupError as error:
            raised = error.worker_failures.values()
            for mistake in (failure for failure in raised if isinstance(failure, RecsysError)):
                raise mistake from None
            died = len(raised) < context.workers or any(isinstance(f, WorkerHealthCheckFailedError) for f in raised)
            failure: TrainingFailedError = error
        except ControllerError as error:
            if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
                context.progress.update(0, 1, "waiting for CPUs: other work of the cluster has them")
                continue
            failure, died = error, True
        attempts += 1
        if not died or attempts > ATTEMPTS_AFTER_A_CRASH:
            raise _summary(failure, attempts, context) from None
        context.progress.update(0, 1, "a worker died; all start again from the last checkpoint")
        wait_until_dead_nodes_are_known()


def _attempt(part: Part, context: StepContext) -> Result:
    """One group, from its start to its end."""
    for left in context.out.iterdir():  # by a group that died while it wrote
        shutil.rmtree(left)
    nodes = Cluster().nodes
    threads = threads_each(context.workers, nodes)
    work: Callable[..., Any] = partial(_work, part, replace(context, threads=threads))
    trainer = TorchTrainer(
        work,
        scaling_config=ScalingConfig(
            num_workers=context.workers,
            use_gpu=context.device == "cuda",
            resources_per_worker={"CPU": threads, **({"GPU": 1} if context.device == "cuda" else {})},
        ),
        run_config=RunConfig(
            name="group",
            storage_path=str(context.progress.scratch / _RAY_FOLDER),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    outcome: Any = trainer.fit()  # typed as the older Result, which had no return value
    result: Result = outcome.return_value
    return result


def _work(part: Part, context: StepContext) -> Result:
    """What a worker's process does."""
    ranks = joined_ranks()
    for path in (context.out, *context.inputs.values()):
        if not path.exists():
            raise PreconditionError(
                f"{path} is not there on {socket.gethostname()}: all nodes of a cluster must share --data and --out"
            )
    use_threads(context.threads)
    progress = context.progress if ranks.leads else QuietProgress(context.progress.scratch)
    return part(replace(context, progress=progress), ranks)


def _summary(failure: TrainingFailedError, attempts: int, context: StepContext) -> TrainingError:
    path = context.progress.scratch.parent / TRACEBACK_FILE
    write_text(path, str(failure))
    causes = failure.worker_failures.values() if isinstance(failure, WorkerGroupError) else [failure]
    said = sorted({f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}" for cause in causes})
    return TrainingError(
        f"the workers failed{f' {attempts} times' * (attempts > 1)}: {'; '.join(said)}; all of it is in {path}; "
        "the same command continues from the last checkpoint"
    )

"""Ray: a local cluster of this machine's cores, or one at an address, that carries out steps."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from pipelines.step import Done, Step, Task, carry_out
from recsys.errors import PreconditionError, RecsysError, TrainingError, UsageError
from recsys.files import write_text

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported: nothing is sent anywhere
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # no GPU asked for, no GPU seen
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning barriers starve the steps beside them

import ray
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError

SECONDS_TO_ANSWER: Final = 5.0
SECONDS_UNTIL_A_NODE_IS_DEAD: Final = 60.0
SECONDS_BETWEEN_LOOKS: Final = 0.5
ATTEMPTS_AFTER_A_CRASH: Final = 2
TRACEBACK_FILE: Final = "error.txt"
OBJECT_STORE_BYTES: Final = 80 << 20
"""Ray's least; steps hand each other files, so that next to nothing goes through the object store."""


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of a cluster has."""

    cpus: int
    gpus: int = 0


def threads_each(workers: int, nodes: Sequence[Node]) -> int:
    """The most CPUs that each of so many workers can have; where there are GPUs, each has one of those too.

    Raises:
        UsageError: when the cluster cannot hold so many workers.
    """
    gpus = sum(node.gpus for node in nodes)
    for threads in range(max(node.cpus for node in nodes), 0, -1):
        if sum(min(node.cpus // threads, node.gpus if gpus else node.cpus) for node in nodes) >= workers:
            return threads
    there = f"{gpus} GPUs" if gpus else f"{sum(node.cpus for node in nodes)} CPUs"
    raise UsageError(
        f"--workers {workers}: the cluster has {there} in {len(nodes)} node{'s' * (len(nodes) > 1)}, and each worker "
        "takes one; ask for fewer workers, or add nodes"
    )


class Cluster:
    """A running Ray session."""

    def __init__(self) -> None:
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        self.nodes = [Node(int(found.get("CPU", 0)), int(found.get("GPU", 0))) for found in resources]

    def threads(self, step: Step) -> int:
        """CPUs for the step, or for each of its workers.

        Raises:
            UsageError: when the cluster cannot hold its workers.
        """
        if step.workers > 1:
            return threads_each(step.workers, self.nodes)
        most = max(node.cpus for node in self.nodes)
        return min(step.cpus or most, most)

    def device(self, step: Step) -> str:
        """What it computes on: "cuda" where the step asks for a GPU and there is one, else "cpu"."""
        return "cuda" if step.gpus and any(node.gpus for node in self.nodes) else "cpu"

    def submit(self, task: Task) -> Any:
        """Hands a task to a worker with its CPUs and GPUs set aside; returns a handle.

        A worker that dies is replaced and the task repeated; an error it raises is not. A task of several workers
        takes nothing itself: it is what starts them.
        """
        alone = task.step.workers == 1
        remote = (_carry_out_alone if alone and not task.step.cpus else _carry_out).options(
            name=task.step.name,
            num_cpus=task.threads if alone else 0,
            num_gpus=1 if alone and task.device == "cuda" else 0,
            max_retries=ATTEMPTS_AFTER_A_CRASH,
        )
        return remote.remote(task)

    def finished(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """Handles of tasks that have ended, waiting up to `seconds` for the first."""
        done, _ = ray.wait(list(handles), num_returns=1, timeout=seconds)
        return list(done)

    def result(self, handle: Any, task: Task) -> Done:
        """What an ended task returned.

        Raises:
            RecsysError: the one the step raised.
            TrainingError: when it failed otherwise; says how, and where the traceback is.
        """
        name = task.step.name
        try:
            done: Done = ray.get(handle)
        except RayTaskError as error:
            if isinstance(error.cause, RecsysError):
                raise error.cause from None
            path = task.work_folder / TRACEBACK_FILE
            write_text(path, str(error))
            raise TrainingError(f"step {name} failed: {error.cause!r}; its traceback is in {path}") from None
        except WorkerCrashedError:
            raise TrainingError(
                f"step {name}: its worker died {1 + ATTEMPTS_AFTER_A_CRASH} times (out of memory?); "
                "run the same command again to continue from there"
            ) from None
        except RayError as error:
            raise TrainingError(f"step {name} failed in Ray: {error}") from None
        return done


def wait_until_dead_nodes_are_known(seconds: float = SECONDS_UNTIL_A_NODE_IS_DEAD) -> None:
    """Waits until every node that Ray takes for alive answers.

    Ray takes a node that is gone for alive for some fifteen seconds more, and would place workers on it.
    """
    end = time.monotonic() + seconds
    while not all(_answers(node) for node in ray.nodes() if node["Alive"]):  # type: ignore[no-untyped-call]
        if time.monotonic() > end:
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _answers(node: Mapping[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), SECONDS_TO_ANSWER).close()
    except OSError:
        return False
    return True


@ray.remote
def _carry_out(task: Task) -> Done:
    return carry_out(task)


@ray.remote(max_calls=1)  # the process ends with the step: what a big model took is given back
def _carry_out_alone(task: Task) -> Done:
    return carry_out(task)


@contextmanager
def ray_cluster(address: str | None, cpus: int) -> Iterator[Cluster]:
    """A local Ray of `cpus` cores, or a connection to the one at `address`; shut down at the end.

    A session that this process has already is used as it is, and stays.

    Raises:
        UsageError: when `address` is not HOST:PORT.
        PreconditionError: when there is no cluster at `address`.
    """
    if address is None and ray.is_initialized():
        yield Cluster()
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address is None:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    else:
        _require_answer(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PreconditionError(
                f"--address {address}: Ray does not let this machine in ({error}); a cluster that asks for tokens "
                "wants RAY_AUTH_MODE=token here, and its token"
            ) from None
    try:
        with _terminated_as_interrupted():
            yield Cluster()
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Tries the address first: Ray itself gives up after minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise UsageError(f"--address {address}: write HOST:PORT, as `ray start --head` prints it")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise PreconditionError(f"--address {address}: no Ray cluster answers there ({error})") from None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Ends a SIGTERM as a Ctrl-C ends; Ray's own handler would dump a stack and abort."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

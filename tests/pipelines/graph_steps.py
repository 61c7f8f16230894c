"""Steps for the tests of the graph, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pipelines.step import Result, StepContext
from recsys.errors import DataError


def trace(log: Path, what: str) -> None:
    """Appends a line to a file that outlives the worker."""
    with log.open("a") as file:
        file.write(f"{what}\n")


@dataclass(frozen=True)
class Add:
    """Adds a number to the sum of its inputs' numbers."""

    number: int
    log: Path

    def __call__(self, context: StepContext) -> Result:
        total = self.number + sum(int((path / "number").read_text()) for path in context.inputs.values())
        (context.out / "number").write_text(str(total))
        trace(self.log, f"add {self.number}")
        return {"total": total}


@dataclass(frozen=True)
class DieOnce:
    """Leaves a checkpoint and is killed; the next attempt goes on from the checkpoint."""

    log: Path

    def __call__(self, context: StepContext) -> Result:
        checkpoint = context.progress.scratch / "checkpoint"
        if not checkpoint.exists():
            (context.out / "half").write_text("half")
            checkpoint.write_text("41")
            trace(self.log, "killed")
            os.kill(os.getpid(), signal.SIGKILL)
        number = int(checkpoint.read_text()) + 1
        (context.out / "number").write_text(str(number))
        trace(self.log, "finished")
        return {"total": number}


@dataclass(frozen=True)
class Fail:
    """Raises an error of the project, or one that nobody expected."""

    expected: bool

    def __call__(self, context: StepContext) -> Result:
        if self.expected:
            raise DataError("line 7: item 'x' is not an integer")
        raise ZeroDivisionError("by nought")


@dataclass(frozen=True)
class Meet:
    """Waits until another step has been running at the same time."""

    folder: Path
    me: str
    other: str

    def __call__(self, context: StepContext) -> Result:
        (self.folder / self.me).touch()
        for _ in range(600):
            if (self.folder / self.other).exists():
                return {"met": 1}
            time.sleep(0.05)
        return {"met": 0}


@dataclass(frozen=True)
class Linger:
    """Reports progress until somebody stops it."""

    log: Path

    def __call__(self, context: StepContext) -> Result:
        trace(self.log, f"{os.getpid()}")
        for done in range(1200):
            context.progress.update(done, 1200, "waiting", share=done / 1200)
            time.sleep(0.05)
        return {}

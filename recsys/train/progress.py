"""How long work tells its caller how far it is, and where it keeps what a restart needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Progress(Protocol):
    """What a recipe is given to report on."""

    @property
    def scratch(self) -> Path:
        """A directory that outlives a crash: checkpoints go here, never into the bundle."""
        ...

    def update(self, done: int, total: int, message: str, **metrics: float) -> None:
        """`done` of `total` units are finished; `message` says what is happening."""
        ...


@dataclass(frozen=True, slots=True)
class QuietProgress:
    """Keeps a scratch directory and says nothing."""

    scratch: Path

    def update(self, done: int, total: int, message: str, **metrics: float) -> None:
        """Does nothing."""

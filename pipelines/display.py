"""How a run is shown: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipelines.step import PROGRESS_FILE

SECONDS_BETWEEN_LINES: Final = 5.0
"""A plain log gets at most one progress line a step in this time."""


class Display(Protocol):
    """What a run tells whoever started it."""

    def say(self, message: str) -> None:
        """Something that is no step."""
        ...

    def cached(self, name: str) -> None:
        """An earlier run did this step."""
        ...

    def follow(self, name: str, work_folder: Path) -> None:
        """A step is under way; what it says of itself is in `work_folder`."""
        ...

    def finished(self, name: str, seconds: float) -> None:
        """A step is done."""
        ...


class _Followed:
    """Reads what a step has written of its progress since the last time."""

    def __init__(self) -> None:
        self._positions: dict[Path, int] = {}

    def newest(self, work_folder: Path) -> dict[str, Any] | None:
        """The newest whole line, None when there is no new one."""
        path = work_folder / PROGRESS_FILE
        try:
            with path.open("rb") as file:
                file.seek(self._positions.get(path, 0))
                text = file.read()
        except FileNotFoundError:
            return None
        whole = text[: text.rfind(b"\n") + 1]
        self._positions[path] = self._positions.get(path, 0) + len(whole)
        lines = whole.splitlines()
        return json.loads(lines[-1]) if lines else None


class PlainDisplay:
    """One line a message; steps under way say something every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._followed = _Followed()
        self._said: dict[str, float] = {}

    def say(self, message: str) -> None:
        """Prints the message."""
        self._console.print(message, markup=False)

    def cached(self, name: str) -> None:
        """Prints that the step was done before."""
        self.say(f"{name}: done before")

    def follow(self, name: str, work_folder: Path) -> None:
        """Prints the start, then progress now and then."""
        now = time.monotonic()
        if name not in self._said and work_folder.exists():  # a worker has made it: no longer in a queue
            self.say(f"{name}: started")
            self._said[name] = now
        elif name not in self._said:
            return
        elif now - self._said[name] >= SECONDS_BETWEEN_LINES and (update := self._followed.newest(work_folder)):
            self._said[name] = now
            self.say(f"{name}: {update['done']}/{update['total']} {_described(update)}")

    def finished(self, name: str, seconds: float) -> None:
        """Prints how long it took."""
        self.say(f"{name}: done in {seconds:.1f} s")


class BarDisplay:
    """One bar a step that is under way, a line for each that is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._followed = _Followed()
        self._bars: dict[str, TaskID] = {}

    def say(self, message: str) -> None:
        """Prints the message above the bars."""
        self._progress.console.print(message, markup=False, style="dim")

    def cached(self, name: str) -> None:
        """Prints that the step was done before."""
        self._progress.console.print(f"[green]✓[/] {name} [dim](done before)[/]")

    def follow(self, name: str, work_folder: Path) -> None:
        """Moves the step's bar."""
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=None, said="")
        if update := self._followed.newest(work_folder):
            bar = self._bars[name]
            self._progress.update(bar, completed=update["done"], total=update["total"], said=_described(update))

    def finished(self, name: str, seconds: float) -> None:
        """Replaces the bar by a line."""
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        self._progress.console.print(f"[green]✓[/] {name} [dim]{seconds:.1f} s[/]")


@contextmanager
def shown(console: Console) -> Iterator[Display]:
    """Bars where `console` is a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:g}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[said]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarDisplay(progress)


def _described(update: dict[str, Any]) -> str:
    metrics = " ".join(f"{name} {value:.4g}" for name, value in update["metrics"].items())
    return f"{update['message']} {metrics}".strip()

"""`recsys evaluate`: a bundle measured on events it has not seen, as report.html and report.json."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from recsys.errors import UsageError
from services.cli.consoles import text_console

if TYPE_CHECKING:
    from recsys.evaluate.results import Progress

console = text_console()


def register(app: typer.Typer) -> None:
    """Adds the verb `evaluate`."""
    app.command("evaluate")(evaluate)


def evaluate(
    bundle: Path = typer.Option(..., help="A bundle, or the folder of all bundles: its current one."),
    data: Path = typer.Option(..., help="The dataset directory that it was trained on."),
    out: Path = typer.Option(..., help="Gets report.html and report.json."),
    max_events: int = typer.Option(100_000, min=0, help="Test events; of more, those of random users. 0 = all."),
    no_baselines: bool = typer.Option(False, "--no-baselines", help="Leave out yardsticks that are not served."),
    single_vector: str | None = typer.Option(
        None, help="Whom a channel with several interests is compared with; left out: two_tower, where there is one."
    ),
    threads: int = typer.Option(0, min=0, help="For what runs threads of its own; 0 = all cores."),
) -> None:
    """Measure a bundle: full catalogue, ties against it, beside tuned yardsticks, with intervals."""
    from recsys.bundle.bundle import open_bundle
    from recsys.data.dataset import Dataset
    from recsys.evaluate.evaluation import EvaluationConfig
    from recsys.evaluate.protocols import held_out_bundles, require_held_out
    from recsys.evaluate.report import REPORT_HTML, REPORT_JSON
    from recsys.evaluate.report import evaluate as write_report
    from recsys.recipes import RECIPES

    dataset = Dataset.open(data)
    _make(out)
    asked, folders = held_out_bundles(bundle)
    bundles = {protocol: open_bundle(folder) for protocol, folder in folders.items()}
    for protocol, opened in bundles.items():
        require_held_out(opened.manifest, protocol, dataset)
        if opened.version != asked.version:
            console.print(f"{protocol}: bundle {asked.version} has seen these events; its twin is {opened.version}")
        if single_vector is not None and single_vector not in opened.channels:
            known = ", ".join(opened.channels)
            raise UsageError(f"--single-vector {single_vector}: no channel of {opened.version}; it has: {known}")
    with _shown() as progress:
        report = write_report(
            bundles,
            dataset,
            out,
            asked=asked,
            config=EvaluationConfig(
                max_events=max_events,
                baselines=not no_baselines,
                threads=threads or os.cpu_count() or 1,
                single_vector=single_vector,
            ),
            sections={name: recipe.sections for name, recipe in RECIPES.items()},
            progress=progress,
        )
    _summarise(report)
    console.print(f"\n{report['cost']['seconds']:.0f} s. For people: {out / REPORT_HTML}")
    console.print(f"For machines: {out / REPORT_JSON}")


def _make(out: Path) -> None:
    """Makes the folder of the report now, so that a wrong one is known before the work.

    Raises:
        UsageError: when it cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made a folder ({error.strerror}); give another one") from None
    if not os.access(out, os.W_OK):
        raise UsageError(f"--out {out}: cannot be written to; give another folder")


def _summarise(report: dict[str, Any]) -> None:
    """One small table a protocol, best first."""
    for protocol, found in report["protocols"].items():
        table = Table("model", "HR@10", "", "NDCG@10", "Recall@100", box=None, header_style="bold")
        console.print(Text.assemble("\n", (protocol, "bold"), f", {found['events']:,} test events"))
        for name, row in sorted(found["models"].items(), key=lambda item: -item[1]["ndcg@10"]):
            low, high = row["ci95"]["hr@10"]
            figures = (f"{row[metric]:.4f}" for metric in ("ndcg@10", "recall@100"))
            table.add_row(name, f"{row['hr@10']:.4f}", Text(f"{low:.4f} – {high:.4f}", style="dim"), *figures)
        console.print(table)
        for name, reason in found["skipped"].items():
            console.print(f"{name}: left out, {reason}")


@contextmanager
def _shown() -> Iterator[Progress]:
    """A bar where there is a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        yield _Bar(bars)


class _Lines:
    """One line a step, when the next begins."""

    def __init__(self) -> None:
        self._step, self._started = "", 0.0

    def start(self, message: str, total: int) -> None:
        """Says how long the step before took, and what comes."""
        now = time.monotonic()
        if self._step:
            console.print(f"{self._step}: {now - self._started:.1f} s")
        self._step, self._started = message, now

    def advance(self, done: int) -> None:
        """Lines are for whole steps."""


class _Bar:
    """One bar, started anew by every step."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, message: str, total: int) -> None:
        """Replaces the bar."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(message, total=total)

    def advance(self, done: int) -> None:
        """Moves it on."""
        if self._task is not None:
            self._bars.advance(self._task, done)

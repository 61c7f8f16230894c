"""`recsys bench otm`: OTM's synthetic study, regret of a beam over trees that TDM and OTM trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

console = Console(soft_wrap=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Adds the verb `bench otm`."""
    app.command("otm")(bench_otm)


def bench_otm(
    seeds: int = typer.Option(5, "--seeds", min=1, help="Worlds; each trains both methods from one start."),
    epochs: int = typer.Option(200, "--epochs", min=1, help="Passes over the training set."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads of torch."),
    out: Path | None = typer.Option(None, "--out", help="File for the same figures as JSON."),
) -> None:
    """Train TDM and OTM on the synthetic data of OTM's paper (arXiv 2006.15408, section 5.1) and print their regret.

    1,000 items, 10,000 training vectors, a random tree, a linear scorer a node, beam 50. A run takes about a minute
    and a half (OTM) or half a minute (TDM) on one core.
    """
    import torch

    from recsys.evaluate.provenance import commit, machine
    from recsys.files import write_text
    from recsys.train.memory import keep_freed_memory
    from services.cli.bench.otm_study import CUTOFFS, StudySetting, measure, summary

    torch.set_num_threads(threads)
    keep_freed_memory()

    def tell(method: str, seed: int, regrets: Sequence[float], seconds: float) -> None:
        figures = " ".join(f"{regret:.4f}" for regret in regrets)
        console.print(f"seed {seed} {method}: regret at {'/'.join(map(str, CUTOFFS))} {figures}, {seconds:.0f} s")

    found = summary(measure(StudySetting(epochs=epochs), seeds, tell))
    report = {"machine": machine(), "commit": commit(), "seeds": seeds, "epochs": epochs, "threads": threads, **found}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(report, indent=2))
    _print(report)


def _print(report: dict[str, Any]) -> None:
    from services.cli.bench.otm_study import CUTOFFS, METHODS, PUBLISHED

    title = f"mean regret of {report['seeds']} seeds after {report['epochs']} epochs"
    table = Table("regret at", *map(str, CUTOFFS), title=title)
    for method in METHODS:
        table.add_row(f"{method.upper()} published", *(f"{regret:.4f}" for regret in PUBLISHED[method]))
        table.add_row(f"{method.upper()} here", *(f"{regret:.4f}" for regret in report["mean"][method]))
    table.add_row("OTM less TDM, paired", *(f"{gain:+.4f}" for gain in report["paired"]["mean"]))
    table.add_row("seeds where OTM is below", *(f"{wins} of {report['seeds']}" for wins in report["paired"]["below"]))
    console.print(table)
    console.print(f"{report['machine']}; {report['threads']} threads; {report['commit']}")

"""`recsys bench train`: targets a second of this trainer, beside torch-rechub's DSSM on the same features."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

_PEER = "torch-rechub==0.9.0"
_GET_PEER = (
    f"{_PEER} is not installed, so only this trainer was measured. To compare: "
    f"pip install --no-deps --target peer {_PEER} && "
    "pip install --no-deps --target peer pandas scikit-learn joblib cloudpickle loky tqdm && "
    "recsys bench train --data DIR --peer peer"
)


def register(app: typer.Typer) -> None:
    """Adds the verb `train` to the group."""
    app.command("train")(train)


def train(
    data: Path = typer.Option(..., "--data", help="A dataset directory."),
    peer: Path | None = typer.Option(None, "--peer", help="Folder that torch-rechub was installed into."),
    batch: int = typer.Option(4096, "--batch", min=64, help="Targets a step."),
    dim: int = typer.Option(64, "--dim", min=8, help="Width of embeddings and vectors."),
    history: int = typer.Option(50, "--history", min=2, help="Items of history that are pooled."),
    negatives: int = typer.Option(256, "--negatives", min=1, help="Columns of our in-batch softmax."),
    seconds: float = typer.Option(5.0, "--seconds", min=0.1, help="How long each trainer runs in a round."),
    rounds: int = typer.Option(3, "--rounds", min=1, help="Rounds; trainers take turns, the median counts."),
    threads: int = typer.Option(1, "--threads", min=0, help="Threads of torch in each trainer, 0 = all cores."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON for a machine."),
) -> None:
    """Train a two-tower with mean-pooled history on a dataset for some seconds, and the peer on the same features.

    A sample is one target with the history before it. Ours: SENet two-tower, every place of a window is a target,
    corrected in-batch softmax, whole optimiser step with clipping. Peer: DSSM in its own training loop, one row a
    target with its padded history, point-wise loss on a positive or a negative, the cheapest that it has. Same fields,
    embedding width, hidden layers and batch. One thread each unless told otherwise: the figure is then one of a core.
    """
    from recsys.evaluate.provenance import commit, machine
    from services.cli.bench.training_rates import Workload, attributes, measure, prepared

    cores = threads or len(os.sched_getaffinity(0))
    with prepared(data, history) as folder:
        workload = Workload(folder, batch, dim, history, negatives, cores, peer and peer.resolve())
        view = workload.view()
        fields = ["item_id", *(f.name for f in attributes(view, "item"))]
        fields += ["history", *(f.name for f in attributes(view, "user"))]
        found = measure(workload, seconds=seconds, rounds=rounds)
    settings = {"batch": batch, "dim": dim, "history": history, "negatives": negatives, "threads": cores}
    report = {"machine": machine(), "commit": commit(), "dataset": data.name, **settings, "fields": fields, **found}
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    title = (
        f"{report['dataset']}: batch {report['batch']:,}, width {report['dim']}, history {report['history']}, "
        f"fields {', '.join(report['fields'])}; our in-batch softmax has {report['negatives']:,} columns"
    )
    rates = report["samples_per_s"]
    peers = [name for name in rates if not name.startswith("ours")]
    table = Table("trainer", "samples/s", *(f"times {name}" for name in peers), title=title)
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", *(f"{rate / rates[other]:.1f}×" for other in peers))
    console = Console()
    console.print(table)
    console.print(f"{report['machine']}; {report['threads']} threads; {report['commit']}", highlight=False)
    if not peers:
        console.print(_GET_PEER, highlight=False)

"""`recsys bench train`: targets a second beside torch-rechub's DSSM, or pace and memory with a table of any size."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

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
    data: Path | None = typer.Option(None, "--data", help="A dataset directory to train on, beside the peer."),
    items: int | None = typer.Option(None, "--rows", min=1_000, help="Instead: items to make up, a table row each."),
    tables: Literal["both", "rowwise", "dense"] = typer.Option(
        "both", "--tables", help="With --rows, the table's optimiser; dense takes five times the table's memory."
    ),
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
    """With --data, train a two-tower with mean-pooled history for some seconds, and the peer on the same features.

    A sample is one target with the history before it. Ours: SENet two-tower, every place of a window is a target,
    corrected in-batch softmax, whole optimiser step with clipping. Peer: DSSM in its own training loop, one row a
    target with its padded history, point-wise loss on a positive or a negative, the cheapest that it has. Same fields,
    embedding width, hidden layers and batch. One thread each unless told otherwise: the figure is then one of a core.

    With --rows, fit a two-tower to made-up sequences over so many items, from the first step to the index, with the
    table taken row by row and as a whole, and print the pace of the steps and the largest memory of the process.
    """
    from recsys.errors import UsageError

    cores = threads or len(os.sched_getaffinity(0))
    if (data is None) == (items is None):
        raise UsageError("give --data DIR to train beside the peer, or --rows N to train a table of N rows")
    if data is not None:
        report = _beside_peer(data, peer, batch, dim, history, negatives, cores, seconds, rounds)
    else:
        report = _with_table(items or 0, tables, batch, dim, cores, seconds)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    elif data is not None:
        _print(report)
    else:
        _print_tables(report)


def _beside_peer(
    data: Path,
    peer: Path | None,
    batch: int,
    dim: int,
    history: int,
    negatives: int,
    cores: int,
    seconds: float,
    rounds: int,
) -> dict[str, Any]:
    from recsys.evaluate.provenance import commit, machine
    from services.cli.bench.training_rates import Workload, attributes, measure, prepared

    with prepared(data, history) as folder:
        workload = Workload(folder, batch, dim, history, negatives, cores, peer and peer.resolve())
        view = workload.view()
        fields = ["item_id", *(f.name for f in attributes(view, "item"))]
        fields += ["history", *(f.name for f in attributes(view, "user"))]
        found = measure(workload, seconds=seconds, rounds=rounds)
    settings = {"batch": batch, "dim": dim, "history": history, "negatives": negatives, "threads": cores}
    return {"machine": machine(), "commit": commit(), "dataset": data.name, **settings, "fields": fields, **found}


def _with_table(items: int, tables: str, batch: int, dim: int, cores: int, seconds: float) -> dict[str, Any]:
    from recsys.evaluate.provenance import commit, machine
    from services.cli.bench.table_training import OPTIMISERS, TableWorkload, measure_fit

    workload = TableWorkload(items, batch, dim, seconds, cores)
    chosen = [name for name in OPTIMISERS if tables in (name, "both")]
    settings = {"rows": items, "batch": batch, "dim": dim, "threads": cores, "seconds": seconds}
    found = {name: measure_fit(workload, name) for name in chosen}
    return {"machine": machine(), "commit": commit(), **settings, "table_gib": items * dim * 4 / 2**30, "fits": found}


def _print_tables(report: dict[str, Any]) -> None:
    measures = {
        "samples_per_s": ("targets/s", "{:,.0f}"),
        "fit_seconds": ("whole fit, s", "{:,.0f}"),
        "data_gib": ("memory before, GiB", "{:.2f}"),
        "trained_gib": ("peak in training, validation and checkpoint, GiB", "{:.2f}"),
        "peak_gib": ("peak in all, with export and index, GiB", "{:.2f}"),
    }
    title = (
        f"{report['rows']:,} rows × {report['dim']} ({report['table_gib']:.2f} GiB), batch about {report['batch']:,}, "
        f"{report['seconds']:g} s of steps"
    )
    table = Table("", *report["fits"], title=title)
    for key, (name, form) in measures.items():
        table.add_row(name, *(form.format(fit[key]) for fit in report["fits"].values()))
    console = Console()
    console.print(table)
    console.print(f"{report['machine']}; {report['threads']} threads; {report['commit']}", highlight=False)


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

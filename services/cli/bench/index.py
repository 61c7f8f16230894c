"""`recsys bench index`: what an index costs to build, to keep and to search, and what it finds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from recsys.index.config import Kind

_ALL = "flat,ivf,ivfpq,hnsw"
_ROWS = {
    "device": "searched on",
    "setting": "a search reads",
    "recall_at_100": "recall@100",
    "build_seconds": "build, s",
    "memory_bytes_per_item": "bytes an item that a search reads",
    "bytes_per_item": "bytes an item on disk",
    "micros_per_query": "one query, µs (median)",
    "micros_per_query_p99": "one query, µs (p99)",
    "micros_per_query_200_excluded": "one query less 200 items, µs (median)",
    "micros_per_query_in_batch_200_excluded": "in a batch less 200 items, µs a query",
}


def register(app: typer.Typer) -> None:
    """Adds the verb `index` to the group."""
    app.command("index")(index)


def index(
    n: list[int] = typer.Option([100_000], "--n", min=1, help="Items; may be given several times."),
    dim: int = typer.Option(64, "--dim", min=1, help="Columns of a vector."),
    noise: list[float] = typer.Option(
        [0.3], "--noise", min=0, help="Spread of items around their centres, one in 500; may be given several times."
    ),
    vectors: Path | None = typer.Option(
        None, "--vectors", help="A bundle, or a saved index: measure its vectors in place of made-up ones."
    ),
    kinds: str = typer.Option(_ALL, "--kinds", help="Which indexes to measure, with commas between."),
    pq_bytes: list[int] = typer.Option(
        [], "--pq-bytes", min=1, help="Bytes of a code of ivfpq; several make several indexes. A quarter of --dim."
    ),
    device: Literal["auto", "cpu", "cuda"] = typer.Option("auto", "--device", help="Where to search."),
    queries: int = typer.Option(1_000, "--queries", min=1, help="Searches to time."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads to build with; searches are timed on one."),
    out: Path | None = typer.Option(
        None, "--out", help="Folder for a sweep over settings: index.html, index.json, and the indexes for a next time."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON for a machine."),
) -> None:
    """Build indexes; print build seconds, recall@100, microseconds a query, bytes an item; draw them with --out.

    Recall and how much a search must read depend on the vectors: give --vectors to measure those of a model.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy loads, below; a server sets the same
    from recsys.evaluate.provenance import Provenance
    from recsys.files import write_text
    from services.cli.bench.folder import make_folder
    from services.cli.bench.index_page import page
    from services.cli.bench.index_sweep import Task, measure
    from services.cli.bench.index_worlds import made_up, saved

    if out is not None:
        make_folder(out)
    sizes: list[int | None] = [*pq_bytes] or [None]
    tasks = [
        Task(kind, device, threads, size, out)
        for kind in _kinds(kinds)
        for size in (sizes if kind == "ivfpq" else [None])
    ]
    worlds = made_up(n, dim, noise, queries) if vectors is None else saved(vectors, queries)
    report: dict[str, Any] = {**Provenance.now().as_json(), "k": 100, "worlds": []}
    for world in worlds:
        found = [measure(world, task) for task in tasks]
        about = {"name": world.name, "metric": world.metric, "n": len(world.items), "dim": world.items.shape[1]}
        report["worlds"].append({**about, "queries": world.source, "indexes": found})
        if not as_json:
            _print(report["worlds"][-1])
        if out is not None:
            write_text(out / "index.json", json.dumps(report, indent=2) + "\n")
            write_text(out / "index.html", page(report))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    console = Console()
    console.print(f"{report['machine']}; {report['commit']}", highlight=False)
    if out is not None:
        console.print(f"drawn in {out / 'index.html'}", highlight=False, soft_wrap=True)


def _kinds(text: str) -> list[Kind]:
    """The kinds named, in order.

    Raises:
        UsageError: for a name that is none.
    """
    from recsys.errors import UsageError

    kinds: list[Kind] = []
    for name in text.split(","):
        if name not in _ALL.split(","):
            raise UsageError(f"--kinds {text}: there is no index {name!r}; there are: {_ALL}")
        kinds.append(cast("Kind", name))
    return kinds


def _print(world: dict[str, Any]) -> None:
    table = Table("", *(found["name"] for found in world["indexes"]), title=f"{world['name']}, k = 100")
    for key, title in _ROWS.items():
        cells = [found[key] for found in world["indexes"]]
        table.add_row(title, *(f"{cell:,}" if not isinstance(cell, str) else cell for cell in cells))
    Console().print(table)

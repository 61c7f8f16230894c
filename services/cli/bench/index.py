"""`recsys bench index`: what an index costs to build, to keep and to search, and what it finds."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from recsys.index.config import Device, Kind
    from recsys.index.vector_index import VectorIndex
    from recsys.types import Floats

_K = 100
_EXCLUDED = 200


def register(app: typer.Typer) -> None:
    """Adds the verb `index` to the group."""
    app.command("index")(index)


def index(
    n: int = typer.Option(100_000, "--n", min=1, help="Items."),
    dim: int = typer.Option(64, "--dim", min=1, help="Columns of a vector."),
    noise: float = typer.Option(0.3, "--noise", min=0, help="Spread of the items around their centres, one in 500."),
    kind: Literal["both", "flat", "ivf"] = typer.Option("both", "--kind", help="Which index to measure."),
    device: Literal["auto", "cpu", "cuda"] = typer.Option("auto", "--device", help="Where to search."),
    queries: int = typer.Option(1_000, "--queries", min=1, help="Searches to time."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON for a machine."),
) -> None:
    """Build an index over synthetic vectors; print build seconds, recall@100, microseconds a query, bytes an item.

    Recall and the number of lists read depend on the vectors: a bundle's manifest has the figures of real ones.
    """
    from recsys.evaluate.provenance import commit, machine

    vectors, users = mixture(n, dim, noise, queries)
    kinds: tuple[Kind, ...] = ("flat", "ivf") if kind == "both" else (kind,)
    found = [measure(vectors, users, one, device) for one in kinds]
    report = {"machine": machine(), "commit": commit(), "n": n, "dim": dim, "noise": noise, "k": _K, "indexes": found}
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(report)


def mixture(count: int, dim: int, noise: float, queries: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Unit vectors around random centres, 500 items each: (count, dim) items and (queries, dim) users."""
    import numpy as np

    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 500), dim), dtype=np.float32)

    def draw(size: int) -> Floats:
        points = centres[rng.integers(0, len(centres), size)]
        points += noise * rng.standard_normal((size, dim), dtype=np.float32)
        unit: Floats = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit

    return draw(count), draw(queries)


def measure(vectors: Floats, users: Floats, kind: Kind, device: Device) -> dict[str, Any]:
    """Builds, saves and opens one index, and searches the opened one as a server does: memory-mapped."""
    import numpy as np

    from recsys.index.config import IndexConfig
    from recsys.index.vector_index import VectorIndex
    from recsys.types import RaggedRows

    built, report = VectorIndex.build(vectors, IndexConfig(kind=kind, device=device), users)
    rng = np.random.default_rng(1)
    seen = rng.integers(0, len(vectors), (len(users), min(_EXCLUDED, len(vectors) // 2))).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        built.save(Path(folder))
        opened = VectorIndex.open(Path(folder), device)
        alone = _one_by_one(opened, users, None)
        with_exclusions = _one_by_one(opened, users, seen)
        started = time.perf_counter()
        opened.search(users, _K, None, RaggedRows.of(list(seen)))
        batch = (time.perf_counter() - started) / len(users) * 1e6
    return {
        **report.model_dump(include={"kind", "device", "lists", "probes", "recall_at_100", "warning"}),
        "build_seconds": round(report.build_seconds, 2),
        "bytes_per_item": report.bytes_per_item,
        "micros_per_query": round(statistics.median(alone), 1),
        "micros_per_query_p99": round(statistics.quantiles(alone, n=100)[98] if len(alone) > 1 else alone[0], 1),
        "micros_per_query_200_excluded": round(statistics.median(with_exclusions), 1),
        "micros_per_query_in_batch_200_excluded": round(batch, 1),
    }


def _one_by_one(opened: VectorIndex, users: Floats, seen: Any) -> list[float]:
    """Microseconds of each search, one query at a time."""
    from recsys.types import RaggedRows

    lists = [None if seen is None else RaggedRows.of([seen[b]]) for b in range(len(users))]
    for b in range(min(20, len(users))):
        opened.search(users[b : b + 1], _K, None, lists[b])
    micros = []
    for b in range(len(users)):
        started = time.perf_counter()
        opened.search(users[b : b + 1], _K, None, lists[b])
        micros.append((time.perf_counter() - started) * 1e6)
    return micros


def _print(report: dict[str, Any]) -> None:
    measures = {
        "device": "searched on",
        "lists": "inverted lists",
        "probes": "lists read",
        "recall_at_100": "recall@100",
        "build_seconds": "build, s",
        "bytes_per_item": "bytes an item",
        "micros_per_query": "one query, µs (median)",
        "micros_per_query_p99": "one query, µs (p99)",
        "micros_per_query_200_excluded": "one query less 200 items, µs (median)",
        "micros_per_query_in_batch_200_excluded": "in a batch less 200 items, µs a query",
    }
    title = f"{report['n']:,} items × {report['dim']}, k = {report['k']}, noise {report['noise']}"
    table = Table("", *(found["kind"] for found in report["indexes"]), title=title)
    for key, measure_name in measures.items():
        table.add_row(
            measure_name, *(f"{found[key]:,}" if key != "device" else found[key] for found in report["indexes"])
        )
    console = Console()
    console.print(table)
    console.print(f"{report['machine']}; {report['commit']}", highlight=False)

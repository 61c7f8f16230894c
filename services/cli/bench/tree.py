"""`recsys bench tree`: what a beam search down a tree of items costs, and what it finds of what brute force finds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

_ROWS = {
    "build_seconds": "tree built, s",
    "bytes_per_leaf": "tree, bytes a leaf",
    "vector_bytes_per_leaf": "node vectors, bytes a leaf",
    "every_leaf_micros": "every leaf scored, µs (median)",
    "flat_micros": "flat search by vector, µs (median)",
    "ivf_micros": "ivf search by vector, µs (median)",
    "ivf_recall_at_100": "ivf search, recall@100 of flat",
    "ivf_vectors_scored": "ivf search, vectors scored",
}
_BEAM_ROWS = {
    "micros": "µs (median)",
    "micros_p99": "µs (p99)",
    "speedup": "times as fast as every leaf scored",
    "nodes_scored": "nodes scored",
    "recall_at_100": "recall@100 of every leaf scored",
    "regret_at_100": "regret@100, standard deviations",
}


def register(app: typer.Typer) -> None:
    """Adds the verb `tree` to the group."""
    app.command("tree")(tree)


def tree(
    n: list[int] = typer.Option([10_000, 100_000, 1_000_000], "--n", min=2, help="Items; may be given several times."),
    beam: list[int] = typer.Option(
        [100, 200, 500], "--beam", min=100, help="Nodes kept a level, at least the 100 asked for; may be given again."
    ),
    dim: int = typer.Option(64, "--dim", min=1, help="Columns of a vector."),
    attended: int = typer.Option(50, "--attended", min=1, help="Behaviours of every user, all attended to."),
    queries: int = typer.Option(300, "--queries", min=1, help="Users, one search each."),
    compared: int = typer.Option(20, "--compared", min=1, help="Users who have every leaf scored, for recall."),
    out: Path | None = typer.Option(None, "--out", help="Folder for tree.json and tree.html, which draws it."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON for a machine."),
) -> None:
    """Build trees of made-up items and search them on one thread, beside other searches of the same items.

    A node's score is what is served: the product with a user's vector, and attention over behaviours. Flat and ivf
    search by the vector alone. Recall depends on how well inner nodes stand for what is below them: here they are
    means, which nobody has trained.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy loads, below; a server sets the same
    from recsys.evaluate.provenance import Provenance
    from recsys.files import write_text
    from services.cli.bench.folder import make_folder
    from services.cli.bench.tree_figures import K, figures
    from services.cli.bench.tree_page import page
    from services.cli.bench.tree_world import made_up

    if out is not None:
        make_folder(out)
    report: dict[str, Any] = {**Provenance.now().as_json(), "k": K, "dim": dim, "attended": attended, "trees": []}
    for count in n:
        with tempfile.TemporaryDirectory() as folder:
            world = made_up(count, dim, attended, queries, Path(folder))
            report["trees"].append(figures(world, beam, compared))
        if out is not None:
            write_text(out / "tree.json", json.dumps(report, indent=2) + "\n")
            write_text(out / "tree.html", page(report))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    console = Console()
    console.print(_table(report))
    for words in _growth(report["trees"]):
        console.print(words, highlight=False)
    console.print(f"{report['machine']}; {report['commit']}", highlight=False)
    if out is not None:
        console.print(f"drawn in {out / 'tree.html'}", highlight=False, soft_wrap=True)


def _growth(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much longer each beam takes from one number of items to the next."""
    return [
        f"beam {small['beam']}: {large['micros'] / small['micros']:.2f} times as long "
        f"over {after['n']:,} items as over {before['n']:,}"
        for before, after in pairwise(trees)
        for small, large in zip(before["beams"], after["beams"], strict=True)
    ]


def _table(report: Mapping[str, Any]) -> Table:
    trees = report["trees"]
    title = f"{report['dim']} columns, {report['attended']} behaviours, k = {report['k']}"
    table = Table("items", *(f"{found['n']:,}" for found in trees), title=title)
    for key, words in _ROWS.items():
        table.add_row(words, *(f"{found[key]:,}" for found in trees))
    for place, beam in enumerate(trees[0]["beams"]):
        table.add_section()
        for key, words in _BEAM_ROWS.items():
            table.add_row(f"beam {beam['beam']}: {words}", *(f"{found['beams'][place][key]:,}" for found in trees))
    return table

"""`recsys bench quality`: leave-one-out as a caller of the service sees it, every test event one gRPC call."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from services.cli.recall import SERVER, TLS_CA, TLS_CERT, TLS_KEY, TOKEN_FILE, connect

if TYPE_CHECKING:
    from recsys.data.catalogue import Catalogue
    from recsys.types import Candidates, Users
    from services.rpc.client import Client

console = Console(soft_wrap=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Adds the verb `bench quality`."""
    app.command("quality")(bench_quality)


def bench_quality(
    server: str = SERVER,
    data: Path = typer.Option(..., help="Dataset that the served bundle was trained on with --holdout last."),
    channels: str = typer.Option("", help="Channels to measure one by one, separated by commas; empty measures all."),
    depth: int = typer.Option(
        501, min=10, max=1000, help="Rows asked for, which a tree's beam is at least as wide as; shorter measures less."
    ),
    as_json: bool = typer.Option(False, "--json", help="For machines."),
    token_file: Path | None = TOKEN_FILE,
    tls_ca: Path | None = TLS_CA,
    tls_cert: Path | None = TLS_CERT,
    tls_key: Path | None = TLS_KEY,
) -> None:
    """Leave-one-out over gRPC: each user's last item, asked for with the history before it, over the full catalogue.

    The bundle must have been trained with --holdout last and served itself, not its refit; `recsys evaluate` measures
    the same in one process, with intervals and yardsticks.
    """
    from recsys.data.catalogue import Catalogue
    from recsys.data.dataset import Dataset
    from recsys.data.splits import Holdout, split
    from recsys.evaluate.metrics import EVENT_METRICS
    from recsys.evaluate.ranking import rank_lists

    dataset = Dataset.open(data)
    catalogue = Catalogue.from_dataset(dataset)
    events = split(dataset, catalogue, Holdout.parse("last")).test
    assert events is not None
    found: dict[str, dict[str, float]] = {}
    with connect(server, token_file, tls_ca, tls_cert, tls_key) as client:
        named = [part.strip() for part in channels.split(",") if part.strip()]
        for name in named or [channel.name for channel in client.recall(None, k=1).channels]:
            started = time.perf_counter()

            def recall(users: Users, k: int, name: str = name) -> Candidates:
                return _ask(client, catalogue, users, min(k, depth), name)

            ranks = rank_lists(recall, events, len(catalogue)).ranks
            measured = {metric: of for metric, of in EVENT_METRICS.items() if _cutoff(metric) <= depth}
            found[name] = {metric: float(of(ranks).mean()) for metric, of in measured.items()}
            found[name] |= {"n": len(ranks), "seconds": time.perf_counter() - started}
    if as_json:
        print(json.dumps(found))
    else:
        _show(found)


def _ask(client: Client, catalogue: Catalogue, users: Users, k: int, channel: str) -> Candidates:
    """One call a user; the request's history is the whole truth about the user's past."""
    import numpy as np

    from recsys.types import Candidates, offsets_of

    answers = [
        client.recall(int(users.ids[b]), k=k, channels=[channel], history=catalogue.ids[users.history[b]]).items
        for b in range(len(users))
    ]
    rows = catalogue.rows_of(np.concatenate([items.ids for items in answers]))
    scores = np.concatenate([items.scores for items in answers])
    return Candidates(rows, scores, np.ones(len(rows), np.uint32), offsets_of([len(items.ids) for items in answers]))


def _cutoff(metric: str) -> int:
    """The k of "recall@k"; 0 for a metric without one."""
    _, _, k = metric.partition("@")
    return int(k or 0)


def _show(found: dict[str, dict[str, float]]) -> None:
    names = [name for name in next(iter(found.values())) if name not in ("n", "seconds")]
    table = Table("channel", *names, "events", "seconds", box=None, header_style="bold")
    for channel, values in found.items():
        figures = [f"{values[name]:.4f}" for name in names]
        table.add_row(channel, *figures, f"{values['n']:,.0f}", f"{values['seconds']:.0f}")
    console.print(table)

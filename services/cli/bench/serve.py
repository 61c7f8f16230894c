"""`recsys bench serve`: what a server can take, beside an echo server in the same run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from services.cli.bench.servers import Place

ECHO: Final = "/recsys.bench.Echo/Echo"
RECALL: Final = "/recsys.v1.Retrieval/Recall"
CONNECTIONS: Final = 16
BYTES_AN_ITEM: Final = 16
"""Of an answer at least: id, score and channel mask."""

console = Console(soft_wrap=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Adds the verb `bench serve`."""
    app.command("serve")(bench_serve)


def bench_serve(
    bundles: Path | None = typer.Option(None, help="Measure this folder's current bundle; none makes a synthetic one."),
    items: int = typer.Option(1_000_000, min=100, help="Items of the synthetic bundle."),
    dim: int = typer.Option(64, min=4, help="Width of its vectors."),
    tower: str = typer.Option("mean", help="Its user tower: mean or attention."),
    channels: str = typer.Option("two_tower", help="Channels to ask, separated by commas; empty asks all."),
    k: int = typer.Option(100, help="Items an answer."),
    workers: int = typer.Option(0, min=0, help="Processes of server and echo alike; 0: one a core."),
    seconds: int = typer.Option(8, min=1, help="Length of each load."),
    runs: int = typer.Option(3, min=1, help="Loads of each kind; figures are medians."),
    work: Path = typer.Option(Path("runs/bench"), help="Keeps synthetic bundles for the next time."),
    out: Path | None = typer.Option(None, help="Write the figures as JSON."),
) -> None:
    """Recall under full and under half load, against a bare gRPC echo of the same process count."""
    from recsys.errors import RecsysError
    from recsys.files import write_text
    from services.cli.bench import h2load
    from services.cli.bench.servers import servers
    from services.cli.bench.stages import measure_stages
    from services.rpc.client import recall_message

    h2load.require()
    folder = bundles or _synthetic(work, items, dim, tower)
    count = workers or os.cpu_count() or 1
    asked = [name.strip() for name in channels.split(",") if name.strip()]
    users = _users(folder)
    messages = [recall_message(user, k=k, channels=asked) for user in users]
    with servers(folder, work / "store" / folder.resolve().parent.name, count) as place:
        smallest = _smallest_answer(place.server, users, asked, k)
        figures = _measure(place, messages, seconds, runs)
    found = figures["recall"]["bytes_per_answer"]
    if found < smallest:
        raise RecsysError(f"answers under load have {found:.0f} bytes, good ones at least {smallest}: they were errors")
    figures |= {"stages_us": measure_stages(folder, asked, k), "machine": _machine(count), "k": k, "channels": asked}
    _show(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")


def _synthetic(work: Path, items: int, dim: int, tower: str) -> Path:
    """The folder of a synthetic bundle, made when it is not there yet."""
    from recsys.errors import UsageError
    from services.cli.bench.synthetic import SyntheticShape, write_synthetic_bundle

    if tower not in ("mean", "attention"):
        raise UsageError(f"--tower {tower}: must be mean or attention")
    kind: Literal["mean", "attention"] = "mean" if tower == "mean" else "attention"
    shape = SyntheticShape(items, dim, kind)
    folder = work / shape.name / "bundles"
    if not (folder / "CURRENT").is_file():
        console.print(f"making a bundle of {items:,} items × {dim} with the {tower} tower in {folder}")
        scratch = work / shape.name / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        _, report = write_synthetic_bundle(folder, scratch, shape)
        shutil.rmtree(scratch)
        found = f"recall@100 {report.recall_at_100:.4f} against exact search on users' vectors"
        console.print(f"index: {report.kind}, {report.probes} of {report.lists} lists read, {found}")
    return folder


def _users(bundles: Path) -> list[int]:
    """Users of the bundle who have a history, one for each connection."""
    from recsys.bundle.manifest import USERS_FOLDER
    from recsys.bundle.publish import current
    from recsys.bundle.users import BundleUsers
    from recsys.errors import PreconditionError

    users = BundleUsers.open(current(bundles) / USERS_FOLDER)
    lengths = users.history_offsets[1:] - users.history_offsets[:-1]
    active: list[int] = users.user_ids[lengths > 0].tolist()
    if not active:
        raise PreconditionError(f"{bundles}: the bundle has no user with a history to ask for")
    return active[:: max(1, len(active) // CONNECTIONS)][:CONNECTIONS]


def _smallest_answer(server: str, users: list[int], channels: list[str], k: int) -> int:
    """Bytes that an answer has at least, from answers that a client understood."""
    from services.rpc.client import Client

    with Client(server) as client:
        counts = [len(client.recall(user, k=k, channels=channels).items.ids) for user in users]
    return min(counts) * BYTES_AN_ITEM


def _measure(place: Place, messages: list[bytes], seconds: int, runs: int) -> dict[str, Any]:
    """Medians of `runs` rounds, each of echo and Recall at full load and Recall at half of it."""
    from services.cli.bench import h2load

    echo, full, half, cpu = [], [], [], []
    for _ in range(runs):
        echo.append(h2load.run(place.echo, ECHO, messages, seconds=seconds))
        before = place.usage()
        full.append(h2load.run(place.server, RECALL, messages, seconds=seconds))
        cpu.append(place.usage().since(before))
        half.append(h2load.run(place.server, RECALL, messages, seconds=seconds, rate=full[-1].qps / 2))
    ceiling, recall, calm = h2load.median(echo), h2load.median(full), h2load.median(half)
    return {
        "echo": asdict(ceiling),
        "recall": asdict(recall),
        "half_load": asdict(calm),
        "ratio_to_echo": statistics.median(mine.qps / bare.qps for mine, bare in zip(full, echo, strict=True)),
        "server_cpu_us_per_call": statistics.median(used.cpu_us_per_call for used in cpu),
        "errors": sum(used.errors for used in cpu) + recall.failed,
        "qps_of_each_run": {"echo": [one.qps for one in echo], "recall": [one.qps for one in full]},
    }


def _machine(workers: int) -> dict[str, Any]:
    model = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "workers": workers,
        "load_average": round(os.getloadavg()[0], 1),
        "note": "the load generator shares the cores with the server: compare the ratio to the echo, not the QPS",
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _show(figures: dict[str, Any]) -> None:
    table = Table("", "QPS", "p50 ms", "p99 ms", box=None, header_style="bold")
    for name, title in (
        ("echo", "echo, full load"),
        ("recall", "Recall, full load"),
        ("half_load", "Recall, half load"),
    ):
        load = figures[name]
        table.add_row(title, f"{load['qps']:,.0f}", f"{load['p50_ms']:.1f}", f"{load['p99_ms']:.1f}")
    console.print(table)
    console.print(
        f"Recall / echo: {figures['ratio_to_echo']:.1%}; {figures['server_cpu_us_per_call']:.0f} µs of CPU a call"
    )
    console.print(
        "µs of one call: " + ", ".join(f"{name} {micros:.0f}" for name, micros in figures["stages_us"].items())
    )
    machine = figures["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['workers']} workers; {machine['note']}", style="dim"
    )
    if figures["errors"]:
        console.print(f"[bold red]{figures['errors']} calls failed[/]: the figures above count only good answers")

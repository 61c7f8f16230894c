"""`recsys bench serve`: what a server can take, with and without its cache, beside an echo server in the same run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from services.cli.bench.h2load import Load
    from services.cli.bench.servers import Server, Usage
    from services.cli.bench.synthetic import Report, Tower
    from services.cli.bench.traffic import Visitor

ECHO: Final = "/recsys.bench.Echo/Echo"
RECALL: Final = "/recsys.v1.Retrieval/Recall"
BYTES_AN_ITEM: Final = 16
"""Of an answer at least: id, score and channel mask."""
BOTH: Final = "attention,mind"

console = Console(soft_wrap=True, highlight=False)


def register(app: typer.Typer) -> None:
    """Adds the verb `bench serve`."""
    app.command("serve")(bench_serve)


def bench_serve(
    bundles: Path | None = typer.Option(None, help="Measure this folder's current bundle; none makes a synthetic one."),
    items: int = typer.Option(1_000_000, min=100, help="Items of the synthetic bundle."),
    dim: int = typer.Option(64, min=4, help="Width of its vectors."),
    tower: str = typer.Option(
        "mean",
        help="Its user towers, separated by commas: mean or attention (with recency), mind, tdm; both: attention,mind.",
    ),
    channels: str = typer.Option("", help="Channels to ask, separated by commas; default: those over user towers."),
    k: int = typer.Option(100, help="Items an answer."),
    workers: int = typer.Option(0, min=0, help="Processes of servers and echo alike; 0: one a core."),
    seconds: int = typer.Option(8, min=1, help="Length of each load."),
    runs: int = typer.Option(3, min=1, help="Loads of each kind; figures are medians."),
    recalls_per_event: int = typer.Option(
        4, min=0, help="Recalls for every click that is recorded meanwhile; 0: no clicks."
    ),
    work: Path = typer.Option(Path("runs/bench"), help="Keeps synthetic bundles for the next time."),
    out: Path | None = typer.Option(None, help="Write the figures as JSON."),
) -> None:
    """Recall with and without the cache of users' vectors, against a bare gRPC echo of the same process count.

    Users are drawn by Zipf's law, and click while they ask: a click makes the next Recall run the towers again.
    """
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # as in workers; read at the imports below
        os.environ.setdefault(variable, "1")
    from recsys.files import write_text
    from services.cli.bench import h2load
    from services.cli.bench.servers import echo_server, recall_server
    from services.cli.bench.stages import asked_channels, interests_per_user, measure_stages
    from services.cli.bench.traffic import CONNECTIONS, visitors
    from services.rpc.client import recall_message

    h2load.require()
    folder = bundles or _synthetic(work, items, dim, tower)
    count = workers or os.cpu_count() or 1
    asked = asked_channels(folder, [name.strip() for name in channels.split(",") if name.strip()])
    people = visitors(folder)
    messages = [recall_message(one.user, k=k, channels=asked) for one in people]
    store = work / "store" / folder.resolve().parent.name
    # The kernel may give all connections to one worker, which then has to take the clicks as well.
    room = ("--max-in-flight", str(2 * CONNECTIONS * h2load.STREAMS))
    with (
        echo_server(count) as echo,
        recall_server(folder, store / "without", count, *room, "--user-cache-mb", "0") as without,
        recall_server(folder, store / "with", count, *room) as cached,
    ):
        places = _Places(echo, without, cached)
        smallest = min(_smallest_answer(server, people, asked, k) for server in (without, cached))
        figures = _measure(places, people, messages, seconds, runs, recalls_per_event)
    for name in ("recall", "cached"):
        _refuse_errors(figures[name]["bytes_per_answer"], smallest)
    figures |= {
        "interests_per_user": interests_per_user(folder, asked, [one.user for one in people]),
        "stages_us": measure_stages(folder, asked, k),
        "machine": _machine(count),
        "k": k,
        "channels": asked,
        "connections": len(people),
        "users": len({one.user for one in people}),
        "recalls_per_event": recalls_per_event,
    }
    _show(figures)
    if out is not None:
        write_text(out, json.dumps(figures, indent=2) + "\n")


def _synthetic(work: Path, items: int, dim: int, tower: str) -> Path:
    """The folder of a synthetic bundle, made when it is not there yet."""
    from services.cli.bench.synthetic import SyntheticShape, write_synthetic_bundle

    shape = SyntheticShape(items, dim, towers_named(tower))
    folder = work / shape.name / "bundles"
    if not (folder / "CURRENT").is_file():
        console.print(f"making a bundle of {items:,} items × {dim} with towers {', '.join(shape.towers)} in {folder}")
        scratch = work / shape.name / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        _, reports = write_synthetic_bundle(folder, scratch, shape)
        shutil.rmtree(scratch)
        for name, report in reports.items():
            console.print(f"{name}: {_finds(report)}")
    return folder


def _finds(report: Report) -> str:
    from recsys.index.config import IndexReport

    if isinstance(report, IndexReport):
        recall = f"recall@100 {report.recall_at_100:.4f} against exact search on users' vectors"
        return f"{report.kind}, {report.probes} of {report.lists} lists read, {recall}"
    recall = f"recall@50 {report.recall[50]:.4f} against every leaf"
    return f"tree, beam of {report.beam}, {report.nodes_scored:,.0f} nodes scored a user, {recall}"


def towers_named(text: str) -> tuple[Tower, ...]:
    """The towers that a flag names.

    Raises:
        UsageError: for others, or two for one channel.
    """
    from recsys.errors import UsageError
    from services.cli.bench.synthetic import CHANNELS

    wanted = [name.strip() for name in (BOTH if text == "both" else text).split(",")]
    towers = tuple(tower for tower in CHANNELS if tower in wanted)
    if len(towers) != len(wanted) or len({CHANNELS[tower] for tower in towers}) != len(wanted):
        raise UsageError(f"--tower {text}: must be mean or attention, mind, tdm, one or more of these three, or both")
    return towers


def _smallest_answer(server: Server, people: list[Visitor], channels: list[str], k: int) -> int:
    """Bytes that an answer has at least, from answers that a client understood."""
    from services.rpc.client import Client

    with Client(server.address) as client:
        counts = [len(client.recall(one.user, k=k, channels=channels).items.ids) for one in people]
    return min(counts) * BYTES_AN_ITEM


def _refuse_errors(found: float, smallest: int) -> None:
    from recsys.errors import RecsysError

    if found < smallest:
        raise RecsysError(f"answers under load have {found:.0f} bytes, good ones at least {smallest}: they were errors")


@dataclass(frozen=True, slots=True)
class _Places:
    """What is measured side by side: the echo server's HOST:PORT, a server without and one with the cache."""

    echo: str
    without: Server
    cached: Server


def _measure(
    places: _Places, people: list[Visitor], messages: list[bytes], seconds: int, runs: int, recalls_per_event: int
) -> dict[str, Any]:
    """Medians of `runs` rounds, each of echo, Recall without and with the cache at full load, and at half of it."""
    from services.cli.bench import h2load
    from services.cli.bench.traffic import clicks

    echo: list[Load] = []
    full: list[Load] = []
    half: list[Load] = []
    cached: list[Load] = []
    used: list[Usage] = []
    used_cached: list[Usage] = []
    for _ in range(runs):
        echo.append(h2load.run(places.echo, ECHO, messages, seconds=seconds))
        for server, loads, usage in ((places.without, full, used), (places.cached, cached, used_cached)):
            with clicks(server, people, recalls_per_event):
                before = server.usage()
                loads.append(h2load.run(server.address, RECALL, messages, seconds=seconds))
                usage.append(server.usage().since(before))
        with clicks(places.without, people, recalls_per_event):
            rate = full[-1].qps / 2
            half.append(h2load.run(places.without.address, RECALL, messages, seconds=seconds, rate=rate))
    return {
        "echo": asdict(h2load.median(echo)),
        "recall": asdict(h2load.median(full)),
        "cached": asdict(h2load.median(cached)),
        "half_load": asdict(h2load.median(half)),
        "ratio_to_echo": statistics.median(mine.qps / bare.qps for mine, bare in zip(full, echo, strict=True)),
        "cached_ratio_to_echo": statistics.median(mine.qps / bare.qps for mine, bare in zip(cached, echo, strict=True)),
        "hit_rate": statistics.median(one.hit_rate for one in used_cached),
        "server_cpu_us_per_call": statistics.median(one.cpu_us_per_call for one in used),
        "cached_server_cpu_us_per_call": statistics.median(one.cpu_us_per_call for one in used_cached),
        "errors": sum(one.errors for one in used + used_cached) + sum(one.failed for one in full + cached),
        "qps_of_each_run": {
            "echo": [one.qps for one in echo],
            "recall": [one.qps for one in full],
            "cached": [one.qps for one in cached],
        },
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
        ("cached", f"Recall with the cache, {figures['hit_rate']:.0%} hits"),
    ):
        load = figures[name]
        table.add_row(title, f"{load['qps']:,.0f}", f"{load['p50_ms']:.1f}", f"{load['p99_ms']:.1f}")
    console.print(table)
    console.print(
        f"Recall / echo: {figures['ratio_to_echo']:.1%}; {figures['server_cpu_us_per_call']:.0f} µs of CPU a call"
    )
    console.print(
        f"with the cache: {figures['cached_ratio_to_echo']:.1%}; "
        f"{figures['cached_server_cpu_us_per_call']:.0f} µs of CPU a call"
    )
    console.print(
        "µs of one call: " + ", ".join(f"{name} {micros:.0f}" for name, micros in figures["stages_us"].items())
    )
    for name, interests in figures["interests_per_user"].items():
        console.print(f"{name}: {interests:.1f} interests a user")
    clicks = f"a click every {figures['recalls_per_event']} Recalls" if figures["recalls_per_event"] else "no clicks"
    console.print(f"{figures['connections']} connections, {figures['users']} users by Zipf's law, {clicks}")
    machine = figures["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['workers']} workers; {machine['note']}", style="dim"
    )
    if figures["errors"]:
        console.print(f"[bold red]{figures['errors']} calls failed[/]: the figures above count only good answers")

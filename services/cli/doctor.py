"""`recsys doctor`: is all that this machine needs there, and how to get what is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.table import Table
from rich.text import Text

from services.cli.consoles import text_console

if TYPE_CHECKING:
    from services.cli.checks.finding import Finding

console = text_console(wide=True)

SERVING, TRAINING = "serve", "train"
_STYLES: Final = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def register(app: typer.Typer) -> None:
    """Adds the verb `doctor`."""
    app.command("doctor")(doctor)


def doctor(
    purpose: str = typer.Option(
        SERVING, "--for", help="serve: what a server needs. train: also torch, Ray and what else training needs."
    ),
    redis_url: str = typer.Option(
        "", envvar="RECSYS_REDIS_URL", help="The feature store to ask; with none, the embedded one is tried."
    ),
    address: str | None = typer.Option(None, help="A Ray cluster to ask, HOST:PORT; else a local one is tried."),
    folder: Path = typer.Option(Path("runs"), help="Where runs are to lie: its disk is looked at."),
    as_json: bool = typer.Option(False, "--json", help="For machines."),
) -> None:
    """Look at versions, machine, feature store, Ray and ports; exit 1 when something needed is missing."""
    from recsys.errors import UsageError

    if purpose not in (SERVING, TRAINING):
        raise UsageError(f"--for {purpose}: must be {SERVING} or {TRAINING}")
    found = list(_findings(purpose == TRAINING, redis_url or None, address, folder, said=not as_json))
    lacking = [finding for finding in found if finding.state == "missing"]
    if as_json:
        entries = [
            {"group": f.group, "name": f.name, "state": f.state, "found": f.found, "advice": f.advice} for f in found
        ]
        print(json.dumps({"for": purpose, "ok": not lacking, "findings": entries}, indent=2, ensure_ascii=False))
    elif lacking:
        console.print(
            f"\nmissing to {purpose}: {', '.join(dict.fromkeys(finding.name for finding in lacking))}", style="bold red"
        )
    else:
        console.print(f"\nall that is needed to {purpose} is there", style="bold green")
    if lacking:
        raise typer.Exit(1)


def _findings(
    training: bool, redis_url: str | None, address: str | None, folder: Path, *, said: bool
) -> Iterator[Finding]:
    """Looks at one group after the other, and shows each as soon as it is there."""
    from services.cli.checks import machine, packages, parts

    looks: tuple[Callable[[], list[Finding]], ...] = (
        lambda: packages.check_packages(training=training),
        lambda: machine.check_machine(folder),
        machine.check_gpu,
        lambda: [parts.check_store(redis_url), *parts.check_ports()],
        lambda: [parts.check_ray(address, training=training), *parts.check_tools()],
    )
    group = ""
    for look in looks:
        found = look()
        if said and found[0].group != group:
            group = found[0].group
            console.print(f"\n{group}", style="bold")
        if said:
            _show(found)
        yield from found


def _show(found: list[Finding]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for column, width in (("state", 7), ("name", 22)):
        table.add_column(column, min_width=width, no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in found:
        said = Text(finding.found)
        if finding.advice:
            said.append(f"\n→ {finding.advice}", style="dim" if finding.state == "ok" else "")
        table.add_row(Text(finding.state, style=_STYLES[finding.state]), finding.name, said)
    console.print(table)

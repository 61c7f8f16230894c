"""`recsys demo`: the whole way from a public log to live answers, by verbs that anyone can type."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from recsys.errors import RecsysError
from services.cli.consoles import text_console

SHOWN_USERS = (1, 405, 655)
"""Three users of ml-100k: a usual one, and two with long histories."""

console = text_console()


def register(app: typer.Typer) -> None:
    """Adds the verb `demo`."""
    app.command("demo")(demo)


def demo(
    out: Path = typer.Option(Path("runs/demo"), help="Folder for data, steps, bundles and report."),
) -> None:
    """Fetch ml-100k, train every model, report, serve, ask the live service, click, ask again."""
    data, bundles, report = out / "data", out / "bundles", out / "report"
    started = time.monotonic()
    _title("1. Real data: MovieLens 100K, with ratings, times and titles")
    if (data / "dataset.json").is_file():
        console.print(f"{data} is there already")
    else:
        _run("data", "fetch", "ml-100k", "--out", str(data))
    _run("data", "describe", str(data))
    _title("2. Train through Ray: two held-out twins to measure, one refit on everything to serve")
    _run("train", "--preset", "demo", "--data", str(data), "--out", str(out))
    _title("3. Measure the twins on what they have not seen")
    _run("evaluate", "--bundle", str(bundles), "--data", str(data), "--out", str(report))
    _title("4. Serve the bundle over gRPC, with an embedded Valkey as feature store")
    with _server(bundles, out / "serve.log") as address:
        for user in SHOWN_USERS:
            _run("recommend", "--server", address, "--user", str(user), "-k", "5")
        _show_a_click(address, SHOWN_USERS[0])
    _title(f"Done in {time.monotonic() - started:.0f} s")
    console.print(f"The report:      {report / 'report.html'}   (open it in a browser)")
    console.print(f"Serve it again:  .venv/bin/recsys serve --bundles {bundles}")
    console.print("Ask it:          .venv/bin/recsys recommend --server 127.0.0.1:50051 --user 1")
    console.print("Your own log:    .venv/bin/recsys data import table LOG.csv --columns ... --out runs/mine/data")
    console.print("                 .venv/bin/recsys train --preset auto --data runs/mine/data --out runs/mine")


def _show_a_click(address: str, user: int) -> None:
    """Records one click and shows that the very next answer is another."""
    _title(f"5. Real time: user {user} clicks the third film, and the next answer changes")
    before = _recommended(address, user)
    clicked = before[2]
    _run("events", "record", "--server", address, "--user", str(user), "--item", str(clicked["item_id"]))
    _run("recommend", "--server", address, "--user", str(user), "-k", "5")
    after = [item["item_id"] for item in _recommended(address, user)]
    if after == [item["item_id"] for item in before]:
        raise RecsysError(f"the answer for user {user} did not change after a click on {clicked['item_id']}")
    new = len(set(after) - {item["item_id"] for item in before})
    console.print(f"{clicked['title']} is gone from the answer; {new} of 20 recommendations are new")


def _recommended(address: str, user: int) -> list[dict[str, object]]:
    command = _command("recommend", "--server", address, "--user", str(user), "-k", "20", "--json")
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        raise RecsysError(f"recsys recommend failed: {finished.stderr.strip()}")
    items: list[dict[str, object]] = json.loads(finished.stdout)["items"]
    return items


@contextmanager
def _server(bundles: Path, log: Path) -> Iterator[str]:
    """A server process on free ports; what it logs goes to a file."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    off = ("--admin-listen", "none", "--metrics-listen", "none")
    arguments = ("serve", "--bundles", str(bundles), "--listen", address, *off)
    _echo(arguments)
    with log.open("w") as output:
        process = subprocess.Popen(_command(*arguments), stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, address, log)
            yield address
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    from services.rpc.client import wait_until_serving

    if not wait_until_serving(address, seconds=60) or process.poll() is not None:
        raise RecsysError(f"the server did not come up; its last words are in {log}")


def _run(*arguments: str) -> None:
    """Runs a verb as its user would, showing the command."""
    _echo(arguments)
    code = subprocess.run(_command(*arguments), check=False).returncode
    if code:
        raise RecsysError(f"recsys {shlex.join(arguments)} ended with exit code {code}")


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "services.cli.main", *arguments]


def _echo(arguments: tuple[str, ...]) -> None:
    console.print(f"$ recsys {shlex.join(arguments)}", style="bold cyan")


def _title(text: str) -> None:
    console.print(f"\n{text}", style="bold")

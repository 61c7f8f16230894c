"""`recsys bench tower`: what the user towers of a bundle cost, one user at a time with a history of full length."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from recsys.bundle.bundle import Bundle
    from recsys.retrieval.user_tower import UserTower
    from recsys.types import Users

_ASKED = 64
"""Different users that take turns."""
_WARM_UP = 50


def register(app: typer.Typer) -> None:
    """Adds the verb `tower` to the group."""
    app.command("tower")(tower)


def tower(
    bundle: Path = typer.Option(..., "--bundle", help="A bundle, or a folder of bundles: the current one."),
    length: int = typer.Option(200, "--length", min=0, help="Items of every history; a tower takes its newest."),
    runs: int = typer.Option(2_000, "--runs", min=1, help="Runs a round."),
    rounds: int = typer.Option(5, "--rounds", min=1, help="Rounds, the towers taking turns; their median is shown."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON for a machine."),
) -> None:
    """Print microseconds a user of every user tower in onnxruntime on one thread, alone and with its inputs made."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy loads, below; a server sets the same
    import numpy as np

    from recsys.bundle.bundle import open_bundle
    from recsys.bundle.manifest import MANIFEST_FILE
    from recsys.bundle.publish import current
    from recsys.evaluate.provenance import Provenance

    opened = open_bundle(bundle if (bundle / MANIFEST_FILE).is_file() else current(bundle))
    timed = _timed(opened, length)
    seconds = [[_median_seconds(run, runs) for run in timed.values()] for _ in range(rounds)]
    micros = dict(zip(timed, np.round(1e6 * np.median(seconds, axis=0), 1).tolist(), strict=True))
    report: dict[str, Any] = {**Provenance.now().as_json(), "bundle_version": opened.version, "length": length}
    report |= {"runs": runs, "rounds": rounds, "micros": micros}
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    table = Table(title=f"{opened.version}, histories of {length}: median of {rounds} rounds of {runs}")
    table.add_column("what")
    table.add_column("µs a user", justify="right")
    for name, value in micros.items():
        table.add_row(name, f"{value:,.0f}")
    Console().print(table)
    Console().print(f"{report['machine']}; {report['commit']}", highlight=False)


def _timed(bundle: Bundle, length: int) -> dict[str, Callable[[int], object]]:
    """By what it is called, what is timed for the i-th user: each tower alone, and each with its inputs made."""
    from recsys.bundle.component import component_directory
    from recsys.errors import PreconditionError
    from recsys.retrieval.user_tower import TOWER, UserTower, open_session

    timed: dict[str, Callable[[int], object]] = {}
    users = _users(bundle, length)
    for name, channel in bundle.channels.items():
        whole = getattr(channel, "tower", None)
        if not isinstance(whole, UserTower):
            continue
        session = open_session(component_directory(bundle.path, name) / TOWER)
        feeds = [whole.feed(user) for user in users]
        timed[f"{name}: tower"] = partial(_run, session, feeds)
        timed[f"{name}: tower, inputs made"] = partial(_queries, whole, users)
    if not timed:
        raise PreconditionError(f"{bundle.path}: none of {', '.join(bundle.channels)} has a user tower to measure")
    return timed


def _run(session: Any, feeds: Sequence[Any], i: int) -> object:
    return session.run(None, feeds[i])


def _queries(tower: UserTower, users: Sequence[Users], i: int) -> object:
    return tower.queries(users[i])


def _users(bundle: Bundle, length: int) -> list[Users]:
    """Users of the bundle, each alone, with made-up histories of one length."""
    import numpy as np

    from recsys.bundle.user_batches import users_of
    from recsys.types import RaggedRows

    rng = np.random.default_rng(0)
    known = bundle.users.user_ids
    ids = known[rng.integers(0, len(known), _ASKED)] if len(known) else np.zeros(_ASKED, np.int64)
    rows = rng.integers(0, len(bundle.catalogue), (_ASKED, length), dtype=np.int32)
    return [replace(users_of(bundle, ids[i : i + 1]), history=RaggedRows.of([row])) for i, row in enumerate(rows)]


def _median_seconds(run: Callable[[int], object], runs: int) -> float:
    import numpy as np

    for i in range(_WARM_UP):
        run(i % _ASKED)
    taken = np.empty(runs)
    for i in range(runs):
        began = time.perf_counter()
        run(i % _ASKED)
        taken[i] = time.perf_counter() - began
    return float(np.median(taken))

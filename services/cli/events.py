"""`recsys events`: tell a running server what users did."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import typer
from rich.console import Console

from recsys.columns import EventType
from services.cli.recall import SERVER, TLS_CA, TLS_CERT, TLS_KEY, TOKEN_FILE, connect

app = typer.Typer(name="events", help="What users do, as the service hears of it.", no_args_is_help=True)
console = Console(soft_wrap=True, highlight=False)


@app.callback()
def group() -> None:
    """What users do, as the service hears of it."""


@app.command("record")
def record(
    server: str = SERVER,
    user: int = typer.Option(..., help="The user's id."),
    item: int = typer.Option(..., help="The item's id."),
    event: EventType = typer.Option(EventType.CLICK, help="What the user did."),
    event_id: int | None = typer.Option(None, help="Recorded once, however often it is sent; random when left out."),
    timestamp_ms: int | None = typer.Option(None, help="When, in milliseconds since 1970; now when left out."),
    token_file: Path | None = TOKEN_FILE,
    tls_ca: Path | None = TLS_CA,
    tls_cert: Path | None = TLS_CERT,
    tls_key: Path | None = TLS_KEY,
) -> None:
    """Record one event; the next answer for the user reflects it."""
    from recsys.errors import InputError
    from recsys.stores.store import Event

    told = Event(
        event_id=secrets.randbits(62) if event_id is None else event_id,
        user_id=user,
        item_id=item,
        type=event,
        timestamp_ms=time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms,
    )
    with connect(server, token_file, tls_ca, tls_cert, tls_key) as client:
        answer = client.record([told])
    if answer.rejected:
        raise InputError(f"the server rejected the event: {answer.rejected[0][1]}")
    console.print("a duplicate: recorded before" if answer.duplicates else f"recorded event {told.event_id}")

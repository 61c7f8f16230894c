"""`recsys events`: tell a running server what users did."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import typer

from recsys.columns import EventType
from services.cli.consoles import text_console
from services.cli.recall import KEYS, SERVER, TLS_CA, TLS_CERT, TLS_KEY, TOKEN_FILE, connect, item_or_key

app = typer.Typer(name="events", help="What users do, as the service hears of it.", no_args_is_help=True)
console = text_console()


@app.callback()
def group() -> None:
    """What users do, as the service hears of it."""


@app.command("record")
def record(
    server: str = SERVER,
    user: str = typer.Option(..., help="The user's id, or key where ids are strings."),
    item: str = typer.Option(..., help="The item's id, or key where ids are strings."),
    keys: bool = KEYS,
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
        user_id=_id_of(user, keys),
        item_id=_id_of(item, keys),
        type=event,
        timestamp_ms=time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms,
    )
    with connect(server, token_file, tls_ca, tls_cert, tls_key) as client:
        answer = client.record([told])
    if answer.rejected:
        raise InputError(f"the server rejected the event: {answer.rejected[0][1]}")
    console.print("a duplicate: recorded before" if answer.duplicates else f"recorded event {told.event_id}")


def _id_of(text: str, keys: bool) -> int:
    """The id of a user or item, which for a key is its hash, as an import makes it."""
    from recsys.data.string_ids import hash_key

    given = item_or_key(text, keys)
    return hash_key(given) if isinstance(given, str) else given

"""`recsys recall` and `recsys recommend`: ask a running server, print a table with titles."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from services.cli.consoles import text_console

if TYPE_CHECKING:
    from services.rpc.calls import RecallAnswer, RecommendAnswer
    from services.rpc.client import Client

TITLE = "title"
TOKEN_VARIABLE = "RECSYS_TOKEN"

console = text_console()

SERVER = typer.Option("127.0.0.1:50051", help="HOST:PORT of the server.")
USER = typer.Option("", help="A user's id, or key where ids are strings; left out: an anonymous user.")
CHANNELS = typer.Option("", help="Names of the channels to ask, separated by commas; all when left out.")
HISTORY = typer.Option("", help="Items, oldest first, separated by commas; replaces what the server knows of the user.")
KEYS = typer.Option(False, "--keys", help="Users and items are string keys even where they look like numbers.")
ALL = typer.Option(False, "--include-seen", help="Items that the user has seen may come back.")
JSON = typer.Option(False, "--json", help="For machines.")
TOKEN_FILE = typer.Option(None, help=f"File with the bearer token; or the variable {TOKEN_VARIABLE}.")
TLS_CA = typer.Option(None, help="Authority of the server's certificate, PEM: the connection is then TLS.")
TLS_CERT = typer.Option(None, help="Certificate to show, PEM.")
TLS_KEY = typer.Option(None, help="Its key, PEM.")


def register(app: typer.Typer) -> None:
    """Adds the verbs `recall` and `recommend`."""
    app.command("recall")(recall)
    app.command("recommend")(recommend)


def recall(
    server: str = SERVER,
    user: str = USER,
    k: int = typer.Option(20, "-k", "--k", help="How many items."),
    channels: str = CHANNELS,
    history: str = HISTORY,
    keys: bool = KEYS,
    include_seen: bool = ALL,
    as_json: bool = JSON,
    token_file: Path | None = TOKEN_FILE,
    tls_ca: Path | None = TLS_CA,
    tls_cert: Path | None = TLS_CERT,
    tls_key: Path | None = TLS_KEY,
) -> None:
    """Candidates for a user, as the retrieval channels find them."""
    with connect(server, token_file, tls_ca, tls_cert, tls_key) as client:
        asked = _asked(channels, history, keys, include_seen)
        answer = client.recall(item_or_key(user, keys) if user else None, k=k, **asked)
    _show(answer, {}, as_json)


def recommend(
    server: str = SERVER,
    user: str = USER,
    k: int = typer.Option(10, "-k", "--k", help="How many items."),
    channels: str = CHANNELS,
    history: str = HISTORY,
    keys: bool = KEYS,
    include_seen: bool = ALL,
    as_json: bool = JSON,
    token_file: Path | None = TOKEN_FILE,
    tls_ca: Path | None = TLS_CA,
    tls_cert: Path | None = TLS_CERT,
    tls_key: Path | None = TLS_KEY,
) -> None:
    """The items to show a user: the whole cascade."""
    with connect(server, token_file, tls_ca, tls_cert, tls_key) as client:
        asked = _asked(channels, history, keys, include_seen)
        answer = client.recommend(item_or_key(user, keys) if user else None, k=k, **asked)
    stages = [
        {"name": s.name, "count_in": s.count_in, "count_out": s.count_out, "micros": s.micros} for s in answer.stages
    ]
    _show(answer, {"stages": stages}, as_json)


def connect(
    server: str, token_file: Path | None, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None
) -> Client:
    """A client with the credentials of the command line.

    Raises:
        UsageError: an address that is none, or a file that cannot be read.
    """
    from recsys.errors import UsageError
    from services.rpc.client import Client
    from services.rpc.settings import Address

    address = Address.parse(server, "--server")
    if not address.port:
        raise UsageError(f"--server {server}: a server has a port from 1 to 65535")
    try:
        token = token_file.read_text().strip() if token_file else os.environ.get(TOKEN_VARIABLE)
    except OSError as error:
        raise UsageError(f"--token-file {token_file}: cannot be read ({error.strerror})") from None
    return Client(str(address), token=token, tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key)


def item_or_key(text: str, keys: bool) -> int | str:
    """An id where the text is a number, else a key."""
    return text if keys or not text.removeprefix("-").isdecimal() else int(text)


def _asked(channels: str, history: str, keys: bool, include_seen: bool) -> dict[str, Any]:
    from recsys.errors import UsageError

    items = [item_or_key(part, keys) for part in _parts(history)]
    if len({type(item) for item in items}) > 1:
        raise UsageError(f"--history {history}: give ids or keys, not both; --keys takes all as keys")
    return {
        "channels": _parts(channels),
        "history": items,
        "exclude_seen": not include_seen,
        "attributes": [TITLE],
    }


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _show(answer: RecallAnswer | RecommendAnswer, extra: dict[str, Any], as_json: bool) -> None:
    rows = _rows(answer)
    about = answer.about
    summary = {
        "bundle_version": about.bundle_version,
        "user_state": "KNOWN" if about.known else "COLD",
        "degraded": list(about.degraded),
    }
    channels = [
        {"name": c.name, "status": c.status.upper(), "count": c.count, "micros": c.micros} for c in answer.channels
    ]
    if as_json:
        print(json.dumps({"items": rows, "channels": channels, **extra, **summary}, ensure_ascii=False))
        return
    table = Table("", "item", "title", "score", "found by", box=None, header_style="bold")
    for place, row in enumerate(rows, start=1):
        name = str(row.get("item_key", row["item_id"]))
        table.add_row(str(place), name, str(row[TITLE]), f"{row['score']:.4f}", ", ".join(row["channels"]))
    console.print(table)
    steps = [(s["name"], s["count_out"], s["micros"]) for s in extra.get("stages", ())]
    steps = steps or [(c["name"], c["count"], c["micros"]) for c in channels]
    console.print("; ".join(f"{name} {count} ({micros / 1000:.1f} ms)" for name, count, micros in steps), style="dim")
    faults = f"; without {', '.join(about.degraded)}" if about.degraded else ""
    console.print(f"bundle {about.bundle_version}; user {summary['user_state']}{faults}", style="dim")


def _rows(answer: RecallAnswer | RecommendAnswer) -> list[dict[str, Any]]:
    """One dict an item: id, key where there is one, title, score, names of the channels that found it."""
    names = [channel.name for channel in answer.channels]
    titles = [attributes.get(TITLE, "") for attributes in answer.attributes or ()]
    keys = answer.items.keys
    rows = []
    for i, (item, score, mask) in enumerate(
        zip(answer.items.ids.tolist(), answer.items.scores.tolist(), answer.masks.tolist(), strict=True)
    ):
        found_by = [name for bit, name in enumerate(names) if mask >> bit & 1]
        row = {"item_id": item, TITLE: titles[i] if i < len(titles) else "", "score": score, "channels": found_by}
        rows.append(row if keys is None else {**row, "item_key": keys[i]})
    return rows

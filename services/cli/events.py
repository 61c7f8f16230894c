"""`recsys events`: tell a running server what users did, and take what it was told into Parquet."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from recsys.columns import EventType
from services.cli.consoles import text_console
from services.cli.recall import KEYS, SERVER, TLS_CA, TLS_CERT, TLS_KEY, TOKEN_FILE, connect, item_or_key

if TYPE_CHECKING:
    from recsys.stores.draining import Drained

app = typer.Typer(name="events", help="What users do, as the service hears of it.", no_args_is_help=True)
console = text_console()
PATIENCE_SECONDS = 10.0
"""What an answer of the store may take: nobody waits for a drain."""


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

    (user_id, user_key), (item_id, item_key) = _id_and_key(user, keys), _id_and_key(item, keys)
    told = Event(
        event_id=secrets.randbits(62) if event_id is None else event_id,
        user_id=user_id,
        item_id=item_id,
        type=event,
        timestamp_ms=time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms,
        user_key=user_key,
        item_key=item_key,
    )
    with connect(server, token_file, tls_ca, tls_cert, tls_key) as client:
        answer = client.record([told])
    if answer.rejected:
        raise InputError(f"the server rejected the event: {answer.rejected[0][1]}")
    console.print("a duplicate: recorded before" if answer.duplicates else f"recorded event {told.event_id}")


def _id_and_key(text: str, keys: bool) -> tuple[int, str | None]:
    """The id of a user or item, and its key, of which the id then is the hash, as an import makes it."""
    from recsys.data.string_ids import hash_key

    given = item_or_key(text, keys)
    return (hash_key(given), given) if isinstance(given, str) else (given, None)


@app.command("drain")
def drain(
    out: Path = typer.Option(..., help="Folder for the parts; `recsys data append` takes it as --events."),
    bundles: Path | None = typer.Option(
        None, help="As `recsys serve` was given: the embedded store beside these bundles."
    ),
    store_dir: Path | None = typer.Option(None, help="Where an embedded store persists, if not beside the bundles."),
    redis_url: str = typer.Option(
        "", envvar="RECSYS_REDIS_URL", help="A Redis or Valkey of one's own. A password belongs in the variable."
    ),
    namespace: str = typer.Option("recsys", help="Prefix of every key in the store."),
    follow: bool = typer.Option(False, "--follow", help="Go on until told to stop (SIGTERM, Ctrl-C)."),
    every: float = typer.Option(10.0, min=0.1, max=3600.0, help="With --follow: seconds between two parts."),
    batch: int = typer.Option(100_000, min=1, max=10_000_000, help="Events a part, at most."),
) -> None:
    """Take recorded events away from the store into Parquet parts, each event once.

    A part is on disk before the store forgets its events; a drain that was killed is simply run again.
    """
    import asyncio

    start = time.perf_counter()
    with _store_url(bundles, store_dir, redis_url, follow) as url:
        done = asyncio.run(_drain(url, namespace, out, batch, every if follow else None))
    seconds = time.perf_counter() - start
    rate = "" if follow else f", in {seconds:.1f} s ({done.events / seconds:,.0f} events/s)"
    console.print(f"{done.events:,} events in {done.parts:,} parts written to {out}{rate}")
    if done.dropped:
        console.print(f"{done.dropped:,} events were lost to the stream's bound before they were drained")
    if done.events:
        console.print(f"into a dataset: recsys data append DATASET --events {out}")


@contextmanager
def _store_url(bundles: Path | None, store_dir: Path | None, redis_url: str, follow: bool) -> Iterator[str]:
    """URL of the store; an embedded one that does not run is started for as long as this lasts.

    Raises:
        UsageError: not exactly one store is named.
        PreconditionError: there has never been a store in the directory, or there is nobody to follow.
    """
    from recsys.errors import PreconditionError, UsageError
    from recsys.stores.embedded import EmbeddedValkey, holds_data, running_url
    from services.rpc.settings import embedded_store_directory

    if redis_url:
        if store_dir is not None:
            raise UsageError("--redis-url and --store-dir are two stores: give one of them")
        yield redis_url
        return
    if bundles is None and store_dir is None:
        raise UsageError("which store? Give --bundles or --store-dir as `recsys serve` was given them, or --redis-url")
    directory = embedded_store_directory(bundles or Path(), store_dir)
    url = running_url(directory)
    if url is not None:
        yield url
        return
    if not holds_data(directory):
        raise PreconditionError(f"{directory}: no embedded store has run there; where does `recsys serve` keep it?")
    if follow:
        raise PreconditionError(
            f"{directory}: no server runs on that store, so nothing new can come; drain without --follow"
        )
    with EmbeddedValkey(directory) as server:
        yield server.url


async def _drain(url: str, namespace: str, out: Path, batch: int, every: float | None) -> Drained:
    """Drains until the end of the stream, or until told to stop where there is an `every`."""
    import asyncio
    import signal

    from recsys.stores.draining import Drain
    from recsys.stores.event_parts import EventParts
    from recsys.stores.opening import open_store

    stop = asyncio.Event()
    for stopping in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(stopping, stop.set)
    warnings = text_console(stderr=True)
    store = open_store(url, namespace, read_timeout=PATIENCE_SECONDS, write_timeout=PATIENCE_SECONDS)
    try:
        with EventParts(out) as parts:
            drain = Drain(store, parts, batch=batch, report=lambda said: warnings.print(f"warning: {said}"), stop=stop)
            return await (drain.run() if every is None else drain.follow(every))
    finally:
        await store.close()

"""`recsys store`: profiles and histories into any Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli.consoles import text_console

if TYPE_CHECKING:
    from recsys.bundle.users import BundleUsers
    from recsys.stores.store import UserState

app = typer.Typer(name="store", help="The feature store.", no_args_is_help=True)
console = text_console()

_PLAIN_LINE_EVERY = 100_000


@app.callback()
def store() -> None:
    """The feature store: profiles, histories, seen items and the event stream, in Redis or Valkey."""


@app.command("load")
def load(
    data: Path = typer.Option(..., "--data", help="A dataset directory."),
    redis_url: str = typer.Option(
        ...,
        "--redis-url",
        envvar="RECSYS_REDIS_URL",
        help="redis://…, rediss://… or unix:///path; better in RECSYS_REDIS_URL.",
    ),
    namespace: str = typer.Option("recsys", "--namespace", help="What all keys begin with."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace what the store has, also where it is newer."),
) -> None:
    """Load attributes, newest history and seen items of every user, where the store has nothing newer."""
    import asyncio

    from recsys.bundle.users import BundleUsers
    from recsys.data.catalogue import Catalogue
    from recsys.data.dataset import Dataset
    from recsys.data.interactions import Interactions
    from recsys.stores.link import redacted
    from recsys.stores.redis_store import RedisStore

    async def run() -> tuple[int, int]:
        # Over a network, and once: patience costs nothing here.
        store = RedisStore(redis_url, namespace, read_timeout=5.0, write_timeout=30.0)
        await store.ping()
        dataset = Dataset.open(data)
        catalogue = Catalogue.from_dataset(dataset)
        interactions = Interactions.from_events(dataset.events(), catalogue)
        users = BundleUsers.gather(
            interactions=interactions, catalogue=catalogue, users=dataset.users(), max_users=None
        )
        try:
            return await store.load(_with_progress(users), overwrite=overwrite), len(users)
        finally:
            await store.close()

    start = time.perf_counter()
    written, count = asyncio.run(run())
    console.print(
        f"{written:,} of {count:,} users written to {redacted(redis_url)}, namespace {namespace}, "
        f"in {time.perf_counter() - start:.1f} s; the store knew the others as well or better",
    )


def _with_progress(users: BundleUsers) -> Iterator[tuple[int, UserState]]:
    """The users; a bar on a terminal, a line now and then elsewhere."""
    columns = (TextColumn("users"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("users", total=len(users))
        for done, user in enumerate(users, start=1):
            yield user
            if done % 1_000 == 0 or done == len(users):
                progress.update(task, completed=done)
            if not console.is_terminal and done % _PLAIN_LINE_EVERY == 0:
                console.print(f"{done:,} of {len(users):,} users")

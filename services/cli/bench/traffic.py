"""Who asks while a server is measured, and the events that their clicks leave meanwhile."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from recsys.bundle.manifest import USERS_FOLDER
from recsys.bundle.publish import current
from recsys.bundle.users import BundleUsers
from recsys.columns import EventType
from recsys.errors import OverloadError, PreconditionError
from recsys.stores.store import Event
from services.cli.bench.servers import Server
from services.rpc.client import Client

CONNECTIONS: Final = 128
_SEED: Final = 5
_TURN_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Visitor:
    """A user behind one connection.

    Attributes:
        user: id.
        items: of the stored history, oldest first.
    """

    user: int
    items: tuple[int, ...]


def visitors(bundles: Path) -> list[Visitor]:
    """One for each connection, drawn by Zipf's law from the current bundle's users who have a history.

    The n-th user comes with a probability that is proportional to 1/n, so that several connections ask for the first.

    Raises:
        PreconditionError: nobody has a history.
    """
    path = current(bundles)
    users = BundleUsers.open(path / USERS_FOLDER)
    active = np.flatnonzero(np.diff(users.history_offsets) > 0)
    if not len(active):
        raise PreconditionError(f"{bundles}: the bundle has no user with a history to ask for")
    rng = np.random.default_rng(_SEED)
    shares = 1 / np.arange(1, len(active) + 1)
    chosen = rng.permutation(active)[rng.choice(len(active), CONNECTIONS, p=shares / shares.sum())]
    states = [users.lookup(int(users.user_ids[at])) for at in chosen]
    return [
        Visitor(int(users.user_ids[at]), tuple(state.history_ids.tolist()))
        for at, state in zip(chosen, states, strict=True)
        if state is not None
    ]


@contextmanager
def clicks(server: Server, of: Sequence[Visitor], recalls_per_event: int) -> Iterator[None]:
    """Records a click for every so many Recalls that the server has answered, until the block ends.

    The visitors take turns, and click what they have clicked before: their histories move, what is excluded does not
    grow with the length of a benchmark. No visitor clicks twice in one call of `Events.Record`: of several clicks
    between two answers only one would cost the cache anything. 0 = no events.
    """
    if not recalls_per_event:
        yield
        return
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        clicking = pool.submit(_click, server, of, recalls_per_event, over)
        try:
            yield
        finally:
            over.set()
        clicking.result()  # a figure without the clicks that it speaks of is none


def _click(server: Server, of: Sequence[Visitor], recalls_per_event: int, over: threading.Event) -> None:
    turns = itertools.cycle(of)
    rng = np.random.default_rng(time.time_ns())
    answered, recorded = server.usage().calls, 0
    with Client(server.address) as client:
        while not over.wait(_TURN_SECONDS):
            due = (server.usage().calls - answered) // recalls_per_event - recorded
            events = [_again(visitor, rng) for visitor in itertools.islice(turns, min(due, len(of)))]
            if events:
                with suppress(OverloadError):  # what is refused stays due
                    client.record(events)
                    recorded += len(events)


def _again(visitor: Visitor, rng: np.random.Generator) -> Event:
    """A click on something that the visitor has clicked before."""
    return Event(
        event_id=int(rng.integers(2**62)),
        user_id=visitor.user,
        item_id=int(rng.choice(visitor.items)),
        type=EventType.CLICK,
        timestamp_ms=time.time_ns() // 1_000_000,
    )

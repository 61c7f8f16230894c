"""Where the microseconds of one Recall go: each part alone, one call after the other, in this process."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from recsys.bundle.bundle import open_bundle
from recsys.bundle.component import components_below, read_component
from recsys.bundle.publish import current
from recsys.bundle.user_batches import users_of
from recsys.features.online import OnlineEncoder
from recsys.retrieval.channel import TowerChannel
from recsys.retrieval.interests_channel import InterestsChannel
from recsys.stores.memory import MemoryStore
from recsys.types import Deadline, Users
from services.pb import recsys_pb2 as pb
from services.rpc import convert
from services.rpc.bundles import load
from services.rpc.engine import Engine, person_of
from services.rpc.measurements import Measurements
from services.rpc.store_guard import GuardedStore

_USERS: Final = 200
_ROUNDS: Final = 3


def asked_channels(bundles: Path, names: Sequence[str]) -> list[str]:
    """The channels named; where none is, those of the current bundle that have a user tower."""
    components = (read_component(folder) for folder in components_below(current(bundles)))
    return list(names) or [info.name for info in components if info.type in ("vector", "interests", "tree")]


def interests_per_user(bundles: Path, channels: Sequence[str], users: Sequence[int]) -> dict[str, float]:
    """Mean number of interests that are searched for these users, by channel of interests."""
    bundle = open_bundle(current(bundles), verify=False)
    batch = users_of(bundle, np.array(users, np.int64))
    asked = [bundle.channels[name] for name in channels]
    return {c.name: float(c.interests(batch)[1].mean()) for c in asked if isinstance(c, InterestsChannel)}


def measure_stages(bundles: Path, channels: Sequence[str], k: int) -> dict[str, float]:
    """Median microseconds of each part of a Recall over some users; the store is in memory.

    For channels over user towers also of their parts: encode, tower (encoding included) and search.
    """
    return asyncio.run(_measure(bundles, channels, k))


async def _measure(bundles: Path, channels: Sequence[str], k: int) -> dict[str, float]:
    bundle = load(current(bundles))
    store = MemoryStore()
    await store.load(islice(bundle.users, _USERS))
    measurements = Measurements()
    engine = Engine(bundle, GuardedStore(store, measurements), measurements)
    watch = _Stopwatch()
    for user in bundle.users.user_ids[:_USERS].tolist() * _ROUNDS:
        message = pb.RecallRequest(user_id=user, k=k, channels=channels).SerializeToString()
        with watch.on("parse"):
            query = convert.recall_query(pb.RecallRequest.FromString(message))
        with watch.on("engine"):
            answer = await engine.recall(query, Deadline.after(60))
        with watch.on("write"):
            convert.recall_response(answer).SerializeToString()
        person = person_of(bundle, query, await store.read(user), ())
        for name in channels or tuple(bundle.channels):
            channel = bundle.channels[name]
            if isinstance(channel, TowerChannel):
                _parts(watch, channel, bundle.encoder, person.users, k)
    return watch.medians()


def _parts(watch: _Stopwatch, channel: TowerChannel, encoder: OnlineEncoder, users: Users, k: int) -> None:
    with watch.on(f"{channel.name}.encode"):
        encoder.encode_users(users, trim=True)
    with watch.on(f"{channel.name}.encode+tower"):
        channel.tower.queries(users)
    with watch.on(f"{channel.name}.search"):  # of vectors that the channel still holds
        channel.recall(users, k)


class _Stopwatch:
    """Times by name."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Times the block."""
        started = time.perf_counter()
        yield
        self._seconds[name].append(time.perf_counter() - started)

    def medians(self) -> dict[str, float]:
        """Median microseconds by name."""
        return {name: 1e6 * statistics.median(values) for name, values in self._seconds.items()}

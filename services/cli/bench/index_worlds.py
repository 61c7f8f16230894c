"""What `recsys bench index` searches: made-up vectors around centres, or those of a saved index or a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.bundle.bundle import Bundle, open_bundle
from recsys.bundle.manifest import MANIFEST_FILE
from recsys.bundle.publish import current
from recsys.bundle.user_batches import users_of
from recsys.errors import PreconditionError
from recsys.index.config import Metric
from recsys.index.files import REPORT
from recsys.index.vector_index import VectorIndex
from recsys.retrieval.vector_channel import VectorChannel
from recsys.types import Floats

_ITEMS_A_CENTRE = 500


@dataclass(frozen=True, slots=True)
class World:
    """Vectors to index and to search with.

    Attributes:
        name: what tables and charts call it.
        slug: names its folder.
        metric: that the vectors are compared by.
        items: (N, d).
        users: (Q, d).
        source: what the queries are: "users" or "items".
    """

    name: str
    slug: str
    metric: Metric
    items: Floats
    users: Floats
    source: str


def made_up(counts: Sequence[int], dim: int, noises: Sequence[float], queries: int) -> Iterator[World]:
    """Mixtures of every size and every noise, one at a time."""
    for count in counts:
        for noise in noises:
            items, users = mixture(count, dim, noise, queries)
            name = f"{count:,} × {dim}, noise {noise:g}"
            yield World(name, f"{count}x{dim}-{noise:g}", "dot", items, users, "users")


def mixture(count: int, dim: int, noise: float, queries: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Unit vectors around random centres, 500 items each: (count, dim) items and (queries, dim) users."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // _ITEMS_A_CENTRE), dim), dtype=np.float32)

    def draw(size: int) -> Floats:
        points = centres[rng.integers(0, len(centres), size)]
        points += noise * rng.standard_normal((size, dim), dtype=np.float32)
        unit: Floats = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit

    return draw(count), draw(queries)


def saved(path: Path, queries: int) -> Iterator[World]:
    """The vectors of a saved index, searched with its own, or of each vector channel of a bundle, with its users'.

    Args:
        path: an index, a bundle, or a folder of bundles, of which the current one is taken.
        queries: at most so many, drawn without replacement.

    Raises:
        BundleError: names what is missing or unreadable.
        PreconditionError: for a bundle without vectors.
    """
    if (path / REPORT).is_file():
        index = VectorIndex.open(path, "cpu")
        yield _world(path.resolve().name, index, index.vectors()[_some(len(index), queries)], "items")
        return
    bundle = open_bundle(path if (path / MANIFEST_FILE).is_file() else current(path))
    channels = [channel for channel in bundle.channels.values() if isinstance(channel, VectorChannel)]
    if not channels:
        raise PreconditionError(f"{bundle.path}: none of {', '.join(bundle.channels)} has vectors to measure")
    for channel in channels:
        name = f"{channel.name} of {bundle.manifest.dataset.name}"
        yield _world(name, channel.index, _users(bundle, channel, queries), "users")


def _users(bundle: Bundle, channel: VectorChannel, queries: int) -> Floats:
    ids = bundle.users.user_ids[_some(len(bundle.users), queries)]
    return channel.user_vectors(users_of(bundle, ids))


def _some(count: int, wanted: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """At most `wanted` of `count` places, ascending, the same every time."""
    return np.sort(np.random.default_rng(0).permutation(count)[:wanted])


def _world(name: str, index: VectorIndex, users: Floats, source: str) -> World:
    report = index.report
    title = f"{name}, {report.count:,} × {report.dim} by {report.metric}"
    return World(title, name.replace(" ", "-"), report.metric, index.vectors(), users, source)

"""Datasets with a planted structure, so that a test knows which model must win.

Users and items belong to clusters. Inside a cluster the items form a ring: with probability
`stickiness` a user's next item is one of the few that follow the present one on the ring, otherwise
a popular item of any cluster. So the best next item depends on the last one (a sequential model
beats a bag of items), on the cluster (a personal model beats popularity), and popularity alone
is still better than chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import ITEM_ID, TIMESTAMP_MS, TITLE, USER_ID
from recsys.data.dataset import Dataset, write_dataset

EPOCH_MS: Final = 1_600_000_000_000
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Planted:
    """Size and strength of the structure.

    Attributes:
        users, items, clusters: how many; items and users are dealt to clusters in turn.
        mean_length: mean events a user (at least 3 each).
        stickiness: probability that the next item follows the present one on its cluster's ring.
        reach: how many ring neighbours the next item may be.
        days: users start anywhere in the first half and act for up to the second half of this span.
    """

    users: int = 500
    items: int = 200
    clusters: int = 5
    mean_length: int = 20
    stickiness: float = 0.8
    reach: int = 3
    days: int = 60
    seed: int = 0


def planted_events(world: Planted) -> pl.DataFrame:
    """user_id (from 1), item_id (100 + index) and timestamp_ms of every click, no item twice in a row."""
    rng = np.random.default_rng(world.seed)
    lengths = np.maximum(3, rng.poisson(world.mean_length, world.users))
    sequences = _walks(world, rng, int(lengths.max()))
    taken = np.arange(sequences.shape[1]) < lengths[:, None]
    start = rng.uniform(0, world.days / 2, world.users)
    steps = rng.exponential(world.days / 2 / (2 * world.mean_length), sequences.shape)
    times = EPOCH_MS + ((start[:, None] + np.cumsum(steps, axis=1)) * _DAY_MS).astype(np.int64)
    user = np.broadcast_to(np.arange(1, world.users + 1)[:, None], sequences.shape)
    return pl.DataFrame({USER_ID: user[taken], ITEM_ID: 100 + sequences[taken], TIMESTAMP_MS: times[taken]})


def planted_items(world: Planted) -> pl.DataFrame:
    """Attributes that tell the cluster (a category, a noisy number) and some that do not (a list of tags)."""
    rng = np.random.default_rng(world.seed + 1)
    index = np.arange(world.items)
    cluster = index % world.clusters
    return pl.DataFrame(
        {
            ITEM_ID: 100 + index,
            TITLE: [f"Item {i} of cluster {c}" for i, c in zip(index, cluster, strict=True)],
            "category": [f"c{c}" for c in cluster],
            "price": np.round(np.exp(rng.normal(cluster, 0.5)), 2),
            "tags": [[f"t{t}" for t in rng.choice(20, rng.integers(0, 4), replace=False)] for _ in index],
        }
    )


def planted_users(world: Planted) -> pl.DataFrame:
    """A segment that names the user's cluster nine times in ten, and an age that says nothing."""
    rng = np.random.default_rng(world.seed + 2)
    cluster = np.arange(world.users) % world.clusters
    told = np.where(rng.random(world.users) < 0.9, cluster, rng.integers(0, world.clusters, world.users))
    return pl.DataFrame(
        {
            USER_ID: np.arange(1, world.users + 1),
            "segment": [f"s{c}" for c in told],
            "age": rng.integers(18, 80, world.users),
        }
    )


def write_planted(path: Path, world: Planted | None = None, without: Sequence[int] = ()) -> Dataset:
    """Writes the world into a dataset directory; the same world gives the same content hash.

    Args:
        path: the directory.
        world: what is planted.
        without: ids of items that this dataset does not know.
    """
    world = world or Planted()
    known = ~pl.col(ITEM_ID).is_in(list(without))
    return write_dataset(
        path,
        events=planted_events(world).filter(known),
        items=planted_items(world).filter(known),
        users=planted_users(world),
        name=f"planted-{world.users}x{world.items}",
        time="real",
        source=f"generated from {world}",
    )


def _walks(world: Planted, rng: np.random.Generator, length: int) -> NDArray[np.int64]:
    """(users, length) item indices: each user walks the ring of its cluster with popular detours."""
    popularity = _popularity(world)
    cluster = np.arange(world.users) % world.clusters
    ring = world.items // world.clusters
    place = rng.integers(0, ring, world.users)
    walks = np.empty((world.users, length), np.int64)
    for step in range(length):
        walks[:, step] = place * world.clusters + cluster
        detour = rng.random(world.users) >= world.stickiness
        ahead = rng.integers(1, world.reach + 1, world.users)
        popular = rng.choice(world.items, world.users, p=popularity)
        place = (place + ahead) % ring
        walks[detour, step] = popular[detour]
    return walks


def _popularity(world: Planted) -> NDArray[np.float64]:
    weights = 1.0 / np.arange(1, world.items + 1) ** 0.8
    return np.random.default_rng(world.seed + 3).permutation(weights / weights.sum())

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.testing.planted import Planted, planted_events, planted_items, planted_users, write_planted

WORLD = Planted(users=300, items=100, clusters=4, seed=3)


def test_the_same_seed_gives_the_same_dataset(tmp_path: Path) -> None:
    hashes = [
        write_planted(tmp_path / str(n), Planted(users=50, items=20, seed=seed)).info.content_hash
        for n, seed in enumerate((1, 1, 2))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_next_item_follows_the_last_on_its_ring_as_often_as_told() -> None:
    events = planted_events(WORLD).sort(USER_ID, TIMESTAMP_MS)
    same_user = np.diff(events[USER_ID].to_numpy()) == 0
    item = events[ITEM_ID].to_numpy() - 100
    cluster, place = item % WORLD.clusters, item // WORLD.clusters
    ahead = np.diff(place) % (WORLD.items // WORLD.clusters)
    follows = (np.diff(cluster) == 0) & (ahead >= 1) & (ahead <= WORLD.reach)
    assert abs(follows[same_user].mean() - WORLD.stickiness**2) < 0.1  # both items must be on the user's own ring


def test_every_user_can_be_split_and_times_grow() -> None:
    lengths = planted_events(WORLD).group_by(USER_ID).len()["len"]
    assert (len(lengths), lengths.min() >= 3) == (WORLD.users, True)


def test_attributes_tell_the_cluster() -> None:
    items, users = planted_items(WORLD), planted_users(WORLD)
    assert items["category"].to_list()[:5] == ["c0", "c1", "c2", "c3", "c0"]
    told = users["segment"].str.strip_prefix("s").cast(int).to_numpy() == np.arange(WORLD.users) % WORLD.clusters
    assert 0.85 < told.mean() < 0.98

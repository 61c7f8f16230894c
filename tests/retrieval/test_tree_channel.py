"""The channel of a tree: as a wide beam sees it brute force, bounded, stopped in time, refused when it does not fit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.cascade.answers import ChannelStatus
from recsys.cascade.cascade import Cascade
from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DeadlineError
from recsys.features.online import OnlineEncoder
from recsys.index.item_tree import ItemTree
from recsys.index.node_attention import NodeAttention
from recsys.retrieval.channel import Channel
from recsys.retrieval.tree_channel import TreeChannel
from recsys.testing.channel_contract import ChannelContract, users_with_histories
from recsys.testing.towers import write_newest_tower
from recsys.types import Deadline, Floats

SIZE, DIM, SLOTS = 40, 6, 45
"""As in conftest.py, and five vacant leaves."""

Written = Callable[..., Path]


@pytest.fixture
def written(write_component: Written, film_vectors: Floats) -> Written:
    """Writes the files of a tree channel over the films; inner nodes are anything."""

    def write(films_in_tree: int = SIZE) -> Path:
        directory = write_component()
        rng = np.random.default_rng(7)
        rows = np.full(SLOTS, -1, np.int32)
        rows[rng.permutation(SLOTS)[:films_in_tree]] = rng.permutation(films_in_tree)
        tree = ItemTree(rows, films_in_tree)
        nodes = rng.standard_normal((tree.nodes, DIM), np.float32)
        nodes[tree.first_leaf :] = np.where(rows[:, None] < 0, 0.0, film_vectors[rows])
        tree.save(directory / "tree")
        identity = np.eye(DIM, dtype=np.float32)
        ages = np.linspace(0.0, -1.0, 5, dtype=np.float32)
        NodeAttention(tree, nodes, identity, identity, ages, cap=8.0).save(directory / "tree")
        return directory

    return write


@pytest.fixture
def channel(written: Written, films: Catalogue, film_encoder: OnlineEncoder) -> TreeChannel:
    return TreeChannel.open("tdm", written(), {"beam": 64, "dim": DIM}, films, film_encoder)


class TestTreeChannel(ChannelContract):
    @pytest.fixture
    def size(self) -> int:
        return SIZE


def test_a_score_is_the_product_with_the_users_vector_and_what_attention_adds(
    channel: TreeChannel, film_vectors: Floats
) -> None:
    history = [3, 11, 20]
    rows, scores = channel.recall(users_with_histories([history], [[]]), 5).of(0)
    seen = film_vectors[history[::-1]]
    for row, score in zip(rows, scores, strict=True):
        film = film_vectors[row]
        shares = np.exp(8.0 * np.tanh(seen @ film / 8.0) + np.linspace(0.0, -1.0, 5)[:3])
        attention = float(shares @ (seen @ film) / shares.sum())
        assert score == pytest.approx(float(seen.mean(axis=0) @ film) + attention, rel=1e-4, abs=1e-5)


def test_a_narrow_beam_widens_to_what_is_asked_for(
    written: Written, films: Catalogue, film_encoder: OnlineEncoder
) -> None:
    narrow = TreeChannel.open("tdm", written(), {"beam": 1}, films, film_encoder)
    users = users_with_histories([[1], [2, 3]])
    assert narrow.recall(users, 1).counts.tolist() == [1, 1]
    assert narrow.recall(users, 17).counts.tolist() == [17, 17]


def test_what_ran_out_of_time_is_late_and_has_what_was_found(
    written: Written, films: Catalogue, film_encoder: OnlineEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = TreeChannel.open("tdm", written(), {"beam": 4}, films, film_encoder)
    users = users_with_histories([[1, 2], []])
    clock = itertools.chain([0.0] * 2, itertools.repeat(5.0))  # asked by the cascade, by the channel, by the search
    monkeypatch.setattr("recsys.types.time", SimpleNamespace(monotonic=lambda: next(clock)))
    found = Cascade([channel]).recall(users, 3, deadline=Deadline(at=4.0))
    assert found.channels[0].status is ChannelStatus.LATE
    assert found.degraded == ("tdm",)
    assert found.candidates.counts.tolist() == [3, 3]
    for user in range(2):
        assert not set(found.candidates.of(user)[0].tolist()) & set(users.excluded[user].tolist())


def test_no_time_at_all_is_an_error(channel: TreeChannel) -> None:
    with pytest.raises(DeadlineError, match="tdm: no time left after the user tower"):
        channel.recall(users_with_histories([[1]]), 3, deadline=Deadline.after(-1.0))


@pytest.mark.parametrize("beam", [0, 10_001, "wide", None])
def test_a_beam_out_of_its_bounds_is_refused(
    written: Written, films: Catalogue, film_encoder: OnlineEncoder, beam: object
) -> None:
    with pytest.raises(BundleError, match="tdm: beam = "):
        TreeChannel.open("tdm", written(), {"beam": beam}, films, film_encoder)


def test_a_tree_that_lacks_an_item_is_refused_by_the_items_name(
    written: Written, films: Catalogue, film_encoder: OnlineEncoder
) -> None:
    with pytest.raises(BundleError, match=r"item 139 \(row 39\) is in the catalogue but not in the tree"):
        TreeChannel.open("tdm", written(films_in_tree=39), {"beam": 64}, films, film_encoder)


def test_a_tree_of_other_vectors_is_refused(written: Written, films: Catalogue, film_encoder: OnlineEncoder) -> None:
    with pytest.raises(BundleError, match=r"its dim is 6, component\.json says 7"):
        TreeChannel.open("tdm", written(), {"beam": 64, "dim": 7}, films, film_encoder)


def test_a_tower_of_several_vectors_is_refused(written: Written, films: Catalogue, film_encoder: OnlineEncoder) -> None:
    directory = written()
    write_newest_tower(directory / "user_tower.onnx", DIM, 3)
    with pytest.raises(BundleError, match="user_vector"):
        TreeChannel.open("tdm", directory, {"beam": 64}, films, film_encoder)


@pytest.mark.parametrize("file", ["rows.npy", "leaves.npy", "node_vectors.npy", "keys.npy", "attention.json"])
def test_a_damaged_file_is_named(written: Written, films: Catalogue, film_encoder: OnlineEncoder, file: str) -> None:
    directory = written()
    path = directory / "tree" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BundleError, match=file.replace(".", r"\.")):
        TreeChannel.open("tdm", directory, {"beam": 64}, films, film_encoder)


def test_history_outside_the_tree_and_no_history_still_find_something(channel: Channel) -> None:
    assert channel.recall(users_with_histories([[]]), 4).counts.tolist() == [4]


def test_json_of_the_attention_is_read_strictly(
    written: Written, films: Catalogue, film_encoder: OnlineEncoder
) -> None:
    directory = written()
    (directory / "tree" / "attention.json").write_text(json.dumps({"cap": 8.0, "heads": 2}))
    with pytest.raises(BundleError, match="heads"):
        TreeChannel.open("tdm", directory, {"beam": 64}, films, film_encoder)

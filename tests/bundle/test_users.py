"""A bundle's users: what was true of each at training time, bounded, and the same after a round trip."""

from __future__ import annotations

import datetime as dt
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.bundle import users as users_module
from recsys.bundle.users import BundleUsers, write_users
from recsys.columns import ITEM_ID, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import Interactions
from recsys.errors import BundleError
from recsys.stores.memory import MemoryStore
from recsys.testing.toy import HISTORIES, write_toy
from recsys.types import offsets_of

CATALOGUE = Catalogue(pl.DataFrame({ITEM_ID: np.arange(0, 100, 10, dtype=np.int64)}))
NOBODY = pl.DataFrame({USER_ID: np.empty(0, np.int64)})


def interactions(sequences: dict[int, list[tuple[int, int]]]) -> Interactions:
    """From (row, ms) pairs of each user, oldest first."""
    pairs = [pair for user in sorted(sequences) for pair in sequences[user]]
    rows, times = np.array(pairs, np.int64).reshape(-1, 2).T
    lengths = [len(sequences[user]) for user in sorted(sequences)]
    return Interactions(np.array(sorted(sequences), np.int64), offsets_of(lengths), rows.astype(np.int32), times)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy dataset's users/ folder."""
    folder = tmp_path_factory.mktemp("toy")
    dataset = write_toy(folder / "data")
    catalogue = Catalogue.from_dataset(dataset)
    known = Interactions.from_events(dataset.events(), catalogue)
    write_users(folder / "users", interactions=known, catalogue=catalogue, users=dataset.users())
    return folder / "users"


def test_every_user_of_the_toy_set_is_there_with_history_seen_and_attributes(toy: Path) -> None:
    opened = BundleUsers.open(toy)
    assert len(opened) == len(HISTORIES)
    for user, items in HISTORIES.items():
        state = opened.lookup(user)
        assert state is not None
        assert state.history_ids.tolist() == items
        assert sorted(state.seen_ids.tolist()) == items
        assert np.all(np.diff(state.history_ms) > 0)
    assert opened.lookup(1).attributes == {"country": "fi", "age": 20}
    assert opened.lookup(5).attributes == {"country": "no"}, "a missing value is left out"


def test_iterating_gives_what_looking_up_gives(toy: Path) -> None:
    opened = BundleUsers.open(toy)
    states = dict(opened)
    assert sorted(states) == sorted(HISTORIES)
    for user, state in states.items():
        looked_up = opened.lookup(user)
        assert state.attributes == looked_up.attributes
        for name in ("history_ids", "history_ms", "seen_ids"):
            assert getattr(state, name).dtype == np.int64
            assert getattr(state, name).tolist() == getattr(looked_up, name).tolist()


@pytest.mark.parametrize("user_id", [0, 7, -1, 2**63 - 1, -(2**63)])
def test_an_unknown_user_has_no_state(toy: Path, user_id: int) -> None:
    assert BundleUsers.open(toy).lookup(user_id) is None


def test_history_and_seen_are_bounded_as_if_told_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_module, "MAX_HISTORY", 5)
    monkeypatch.setattr(users_module, "MAX_SEEN", 3)
    monkeypatch.setattr(users_module, "_BLOCK", 50)
    rng = np.random.default_rng(0)
    sequences = {
        int(user) * 3: [(int(rng.integers(10)), 1_000 * user + i) for i in range(rng.integers(1, 30))]
        for user in range(40)
    }
    gathered = BundleUsers.gather(interactions=interactions(sequences), catalogue=CATALOGUE, users=NOBODY)
    assert gathered.user_ids.tolist() == sorted(sequences)
    for user, pairs in sequences.items():
        state = gathered.lookup(user)
        assert [(i // 10, ms) for i, ms in zip(state.history_ids, state.history_ms, strict=True)] == pairs[-5:]
        last_seen: OrderedDict[int, None] = OrderedDict()
        for row, _ in pairs:
            last_seen[row] = None
            last_seen.move_to_end(row)
        assert (state.seen_ids // 10).tolist() == list(last_seen)[-3:]


def test_of_too_many_users_those_active_last_stay_and_the_idle_go_first() -> None:
    sequences = {user: [(0, -100), (1, ms)] for user, ms in {1: 50, 2: 400, 3: 10, 4: 300, 5: 200}.items()}
    users = pl.DataFrame({USER_ID: [2, 3, 8, 9], "name": ["two", "three", "eight", "nine"]})

    def kept(bound: int | None) -> list[int]:
        gathered = BundleUsers.gather(
            interactions=interactions(sequences), catalogue=CATALOGUE, users=users, max_users=bound
        )
        assert [user for user, _ in gathered] == gathered.user_ids.tolist()
        for user, state in gathered:
            assert state.history_ids.tolist() == ([0, 10] if user in sequences else [])
            assert state.attributes.get("name") == {2: "two", 3: "three", 8: "eight", 9: "nine"}.get(user)
        return gathered.user_ids.tolist()

    assert kept(2) == [2, 4]
    assert kept(6) == [1, 2, 3, 4, 5, 8]
    assert kept(None) == kept(1_000_000) == [1, 2, 3, 4, 5, 8, 9]


def test_attributes_are_what_json_can_hold(tmp_path: Path) -> None:
    users = pl.DataFrame(
        {
            USER_ID: [1, 2],
            "born": [dt.date(1970, 1, 2), None],
            "joined": [dt.datetime(1970, 1, 1, 0, 0, 1), None],
            "kind": pl.Series(["a", None], dtype=pl.Categorical),
            "score": [float("nan"), 0.5],
            "tags": [["x", "y"], None],
            "empty": ["", "e"],
            "raw": [b"\x00", b"\x01"],
            "nested": [{"a": 1}, {"a": 2}],
        }
    )
    write_users(tmp_path, interactions=interactions({}), catalogue=CATALOGUE, users=users)
    opened = BundleUsers.open(tmp_path)
    assert opened.lookup(1).attributes == {
        "born": 86_400_000, "joined": 1_000, "kind": "a", "tags": ["x", "y"], "empty": "",
    }  # fmt: skip
    assert opened.lookup(2).attributes == {"score": 0.5, "empty": "e"}


async def test_the_states_go_into_a_store_as_they_are(toy: Path) -> None:
    opened, store = BundleUsers.open(toy), MemoryStore()
    assert await store.load(opened) == len(HISTORIES)
    for user, state in opened:
        read = await store.read(user)
        assert read.attributes == state.attributes
        assert read.history_ids.tolist() == state.history_ids.tolist()
        assert read.history_ms.tolist() == state.history_ms.tolist()
        assert read.seen_ids.tolist() == state.seen_ids.tolist()


@pytest.mark.parametrize("users", [NOBODY, pl.DataFrame({USER_ID: [1, 2]})], ids=["nobody", "no attributes"])
def test_empty_parts_are_written_and_opened(tmp_path: Path, users: pl.DataFrame) -> None:
    write_users(tmp_path, interactions=interactions({}), catalogue=CATALOGUE, users=users)
    opened = BundleUsers.open(tmp_path)
    assert [user for user, _ in opened] == users[USER_ID].to_list()
    assert all(not state.attributes and not len(state.history_ids) for _, state in opened)


def test_what_is_written_is_what_is_listed(toy: Path, tmp_path: Path) -> None:
    written = BundleUsers.open(toy).save(tmp_path / "again")
    assert (
        sorted(written) == sorted((tmp_path / "again").iterdir()) == sorted(tmp_path / "again" / name for name in FILES)
    )


FILES = [*(f"{name}.npy" for name in users_module._ARRAYS), "attributes.arrow"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_truncated_or_foreign_file_is_refused_by_name(toy: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(toy, tmp_path / "users")
    path = tmp_path / "users" / name
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole[:10], b"", b"something else altogether"):
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=name):
            BundleUsers.open(tmp_path / "users")
    path.unlink()
    with pytest.raises(BundleError, match=name):
        BundleUsers.open(tmp_path / "users")


def test_files_of_different_users_are_refused(toy: Path, tmp_path: Path) -> None:
    shutil.copytree(toy, tmp_path / "users")
    one = BundleUsers.gather(interactions=interactions({1: [(0, 1)]}), catalogue=CATALOGUE, users=NOBODY)
    one.save(tmp_path / "one")
    for name in ("history_ids.npy", "seen_ids.npy", "seen_offsets.npy", "user_ids.npy"):
        shutil.copy(tmp_path / "one" / name, tmp_path / "users" / name)
        with pytest.raises(BundleError, match=r"\.npy|\.arrow"):
            BundleUsers.open(tmp_path / "users")
        shutil.copy(toy / name, tmp_path / "users" / name)

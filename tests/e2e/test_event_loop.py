"""The loop, closed: events recorded over gRPC are in the next training run, each once, whatever is killed between."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.bundle.bundle import open_bundle
from recsys.bundle.publish import current, publish
from recsys.columns import EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID, EventType
from recsys.data.dataset import Dataset
from recsys.data.event_ids import renamed_event_id
from recsys.data.string_ids import KEY, hash_key
from recsys.stores.embedded import running_url
from recsys.stores.redis_store import RedisStore
from recsys.stores.store import Event, UserState
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.serving import RunningServer
from recsys.testing.toy import toy_events, toy_items, toy_users, write_toy
from services.cli.main import main
from services.rpc.client import Client

PATIENCE = 60.0
NOW = 1_700_000_000_000
NEW_USER, NEW_ITEM = 77, 999
ROWS = toy_events().height


def recsys(*arguments: object) -> str:
    """Runs a verb as a process of its own, which must succeed; returns what it printed."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "services.cli.main", *map(str, arguments)]


def trained(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path) -> Path:
    """Trains on everything in the data and publishes; the folder of bundles."""
    flags = ["--preset", "auto", "--only", "popularity,item_knn", "--holdout", "none"]
    arguments = ["recsys", "train", *flags, "--data", data, "--out", out]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return out / "bundles"


def drain_until_there_are(count: int, folder: Path, *flags: object) -> bool:
    """Drains, a part an event, and kills the process once the folder has so many parts; whether it lived so long."""
    drain = subprocess.Popen(command("events", "drain", "--out", folder, "--batch", 1, *flags))
    until(lambda: drain.poll() is not None or len(list(folder.glob("*.parquet"))) >= count)
    drain.kill()
    code = drain.wait()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def parts_of(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])


def stored(store_dir: Path, user: int) -> UserState:
    """What the embedded store of a running server knows of a user."""
    url = running_url(store_dir)
    assert url is not None

    async def read() -> UserState:
        store = RedisStore(url, read_timeout=PATIENCE)
        try:
            return await store.read(user)
        finally:
            await store.close()

    return asyncio.run(read())


def pairs(state: UserState) -> list[tuple[int, int]]:
    return list(zip(state.history_ids.tolist(), state.history_ms.tolist(), strict=True))


def live_events() -> list[Event]:
    """What happens while the server serves; ids from 0, which are those of imported rows too."""
    loop = [Event(n, NEW_USER, 10 * (n % 8 + 1), EventType.CLICK, NOW + n) for n in range(40)]
    return [
        *loop,
        Event(40, 4, 10, EventType.IMPRESSION, NOW + 40),
        Event(41, 4, 10, EventType.CLICK, NOW + 41),
        Event(42, 4, 10, EventType.CONVERSION, NOW + 42, click_id=41, value=9.5),
        Event(43, 4, 20, EventType.CONVERSION, NOW + 43, click_id=3),  # the click with id 3 is of this loop
        Event(44, NEW_USER, NEW_ITEM, EventType.CLICK, NOW + 44),
        Event(45, 5, NEW_ITEM, EventType.CLICK, NOW + 45),
    ]


@pytest.mark.usefixtures("local_ray")
def test_events_recorded_over_grpc_are_in_the_next_training_run_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, parts, run = tmp_path / "data", tmp_path / "parts", tmp_path / "run"
    toy_events().drop(EVENT_ID).write_parquet(tmp_path / "log.parquet")
    toy_items().write_parquet(tmp_path / "items.parquet")
    toy_users().write_parquet(tmp_path / "users.parquet")
    recsys("data", "import", "table", tmp_path / "log.parquet", "--items", tmp_path / "items.parquet",
           "--users", tmp_path / "users.parquet", "--out", data)  # fmt: skip
    bundles = trained(monkeypatch, data, run)
    first = current(bundles).name
    events = live_events()
    early, late = events[:41], events[41:]

    with RunningServer(bundles, "--workers", "2") as server, Client(server.address) as client:
        answer = client.record([*early, *early[:7]])
        assert (answer.accepted, answer.duplicates) == (len(early), 7)
        assert client.record(early[::2]).duplicates == len(early[::2])
        killed = [drain_until_there_are(count, parts, "--bundles", bundles) for count in (1, 6, 20)]
        assert any(killed), "it was done each time before it was killed"
        recsys("events", "drain", "--out", parts, "--bundles", bundles)
        # Recorded after the last drain, and drained when nobody serves any more.
        assert client.record([*late, *early]).accepted == len(late)
        server.stop()
    assert f"{len(late)} events in 1 parts" in recsys("events", "drain", "--out", parts, "--bundles", bundles)
    assert "0 events in 0 parts" in recsys("events", "drain", "--out", parts, "--bundles", bundles)
    assert Counter(parts_of(parts)[EVENT_ID]) == Counter(event.event_id for event in events)

    assert f"{len(events)} of {len(events)} events are new" in recsys("data", "append", data, "--events", parts)
    before = (data / "dataset.json").read_bytes()
    assert f"0 of {len(events)} events are new" in recsys("data", "append", data, "--events", parts)
    assert (data / "dataset.json").read_bytes() == before

    dataset = Dataset.open(data)
    assert dataset.info.counts.events == ROWS + len(events)
    joined = dataset.events().collect().filter(pl.col(TIMESTAMP_MS) >= NOW).sort(TIMESTAMP_MS)
    assert joined[USER_ID].to_list() == [event.user_id for event in events]
    assert joined[ITEM_ID].to_list() == [event.item_id for event in events]
    id_of = dict(zip((event.event_id for event in events), joined[EVENT_ID], strict=True))
    assert id_of == {n: renamed_event_id(n) if n < ROWS else n for n in range(len(events))}
    names = dict(joined.select(EVENT_ID, "click_id").drop_nulls().iter_rows())
    assert names == {id_of[42]: id_of[41], id_of[43]: id_of[3]}

    trained(monkeypatch, data, run)
    bundle = open_bundle(current(bundles))
    assert bundle.version != first
    assert bundle.manifest.dataset.content_hash == dataset.info.content_hash
    assert bundle.catalogue.ids.tolist() == [*toy_items()[ITEM_ID], NEW_ITEM]
    lived = {user: [(e.item_id, e.timestamp_ms) for e in events if e.user_id == user and e.type != EventType.IMPRESSION]
             for user in (NEW_USER, 4, 5)}  # fmt: skip
    for user, expected in lived.items():
        known = bundle.users.lookup(user)
        assert known is not None
        assert pairs(known)[-len(expected) :] == expected
        assert max(Counter(pairs(known)).values()) == 1
    assert pairs(bundle.users.lookup(NEW_USER)) == lived[NEW_USER]  # type: ignore[arg-type]

    # The store kept the live histories over the restart; the users of the new bundle do not double them.
    with RunningServer(bundles, "--workers", "1") as server, Client(server.address) as client:
        assert server.version == bundle.version
        for user in lived:
            assert pairs(stored(tmp_path / "run" / "store", user)) == pairs(bundle.users.lookup(user))  # type: ignore[arg-type]
        assert NEW_ITEM in client.recall(6, k=20).items.ids
        assert NEW_ITEM not in client.recall(NEW_USER, k=20).items.ids
        assert client.recall(NEW_USER, k=20).about.known


def test_a_follower_takes_what_comes_and_ends_with_zero(tmp_path: Path) -> None:
    bundles, parts = tmp_path / "bundles", tmp_path / "parts"
    publish(bundles, write_toy_bundle(bundles, write_toy(tmp_path / "data"), tmp_path / "work").name)
    with RunningServer(bundles, "--workers", "1") as server, Client(server.address) as client:
        follower = subprocess.Popen(
            command("events", "drain", "--out", parts, "--store-dir", tmp_path / "store", "--follow", "--every", "0.1"),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for n in range(3):
            client.record([Event(n, 1, 10, EventType.CLICK, NOW)])
            until(lambda n=n: parts.is_dir() and len(list(parts.glob("*.parquet"))) > n)  # type: ignore[misc]
        refused = subprocess.run(
            command("events", "drain", "--out", tmp_path / "other", "--bundles", bundles),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert refused.returncode == 2
        assert f"is being drained into {parts}" in refused.stderr
        os.kill(follower.pid, signal.SIGTERM)
        said, _ = follower.communicate(timeout=PATIENCE)
        assert follower.returncode == 0
        assert "3 events in 3 parts" in said


def test_keys_come_all_the_way_back(tmp_path: Path) -> None:
    """String ids: a user and an item that the dataset has never heard of end in its dictionaries."""
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp_ms\n"
        + "".join(f"user-{n},film-{n % 3},{1_600_000_000 + n}\n" for n in range(12))
    )  # fmt: skip
    (tmp_path / "items.csv").write_text("item_id,title,year,price,genres\n" + "".join(
        f"film-{n},Film {n},199{n},1.5,a|b\n" for n in range(3)))  # fmt: skip
    (tmp_path / "users.csv").write_text("user_id,country,age\n" + "".join(f"user-{n},fi,3{n}\n" for n in range(9)))
    data, bundles, parts = tmp_path / "data", tmp_path / "bundles", tmp_path / "parts"
    recsys("data", "import", "table", tmp_path / "log.csv", "--items", tmp_path / "items.csv",
           "--users", tmp_path / "users.csv", "--out", data)  # fmt: skip
    publish(bundles, write_toy_bundle(bundles, Dataset.open(data), tmp_path / "work").name)
    with RunningServer(bundles, "--workers", "1") as server:
        recsys("events", "record", "--server", server.address, "--user", "eve", "--item", "film-1")
        with Client(server.address) as client:
            named = [("eve", "dune"), ("user-1", "dune")]
            client.record([
                Event(n, hash_key(user), hash_key(item), EventType.CLICK, NOW, user_key=user, item_key=item)
                for n, (user, item) in enumerate(named)
            ])  # fmt: skip
        recsys("events", "drain", "--out", parts, "--bundles", bundles)
    assert "3 of 3 events are new" in recsys("data", "append", data, "--events", parts)
    dataset = Dataset.open(data)
    users, items = dataset.user_keys(), dataset.item_keys()
    assert users is not None
    assert items is not None
    assert {"eve", "user-1"} < set(users[KEY])
    assert "dune" in set(items[KEY])
    clicked = dataset.events().filter(pl.col(USER_ID) == hash_key("eve")).collect()
    assert set(clicked[ITEM_ID]) == {hash_key("film-1"), hash_key("dune")}

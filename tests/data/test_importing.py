from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.columns import EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data import string_ids
from recsys.data.dataset import Dataset
from recsys.data.importing import ImportOptions, import_dataset
from recsys.data.readers.raw import ReaderOptions
from recsys.data.string_ids import hash_key
from recsys.errors import DataError, UsageError


def pairs(rows: int, bad: int) -> str:
    return "".join("no pair at all\n" if n < bad else f"{n} {n}\n" for n in range(rows))


def test_one_percent_of_bad_rows_is_still_an_import(write, import_as) -> None:
    stored = import_as("pairs", write("log.txt", pairs(300, 3)))
    assert (len(stored.events), len(stored.rejected), stored.dataset.info.counts.rejected) == (297, 3, 3)


def test_more_than_one_percent_is_not_and_the_rows_are_kept_beside(write, import_as, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"4 of 300 rows cannot be used.*line 1: it is not two ids.*rejected\.parquet"):
        import_as("pairs", write("log.txt", pairs(300, 4)))
    assert not (tmp_path / "out").exists()
    assert pl.read_parquet(tmp_path / "out.rejected.parquet")["line"].to_list() == [1, 2, 3, 4]


def test_the_share_that_may_be_rejected_is_the_users_choice(write, import_as, tmp_path: Path) -> None:
    path = write("log.txt", pairs(300, 30))
    assert len(import_as("pairs", path, max_rejected=0.1).rejected) == 30
    with pytest.raises(DataError, match="rows cannot be used"):
        import_as("pairs", path, max_rejected=0.0)
    with pytest.raises(DataError, match="3 of 3 rows cannot be used"):
        import_as("pairs", write("bad.txt", pairs(3, 3)), max_rejected=1.0)


def test_a_failed_import_leaves_the_old_dataset_and_a_good_one_clears_the_old_complaint(
    write, import_as, tmp_path: Path
) -> None:
    before = import_as("pairs", write("log.txt", "1 2\n"))
    with pytest.raises(DataError):
        import_as("pairs", write("bad.txt", pairs(9, 9)))
    assert Dataset.open(tmp_path / "out").info == before.dataset.info
    import_as("pairs", write("log.txt", "1 3\n"))
    assert not (tmp_path / "out.rejected.parquet").exists()


def test_string_ids_are_the_same_in_every_import(write, import_as) -> None:
    first = import_as("pairs", write("a.txt", "ann mug\nbob cup\n")).dataset
    first_keys = dict(first.item_keys().iter_rows())
    later = import_as("pairs", write("b.txt", "zoe pen\nbob cup\nann mug\nann \u00e4\n")).dataset
    later_keys = dict(later.item_keys().iter_rows())
    assert (later.info.user_ids, later.info.item_ids) == ("string", "string")
    assert first_keys.items() <= later_keys.items()
    assert later_keys[hash_key("\u00e4")] == "\u00e4"
    assert set(later_keys) == set(later.items()[ITEM_ID])


def test_users_may_be_strings_and_items_integers(write, import_as) -> None:
    info = import_as("pairs", write("a.txt", "ann 7\nbob 8\n")).dataset.info
    assert (info.user_ids, info.item_ids) == ("string", "integer")


def test_a_collision_of_hashes_is_refused(write, import_as, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(string_ids, "hash_key", lambda key: len(key))
    with pytest.raises(DataError, match="user_id: the strings 'ann' and 'bob' have the same"):
        import_as("pairs", write("a.txt", "ann mug\nbob soup\n"))
    assert not (tmp_path / "out").exists()


def test_the_same_file_gives_the_same_content_hash(write, import_as) -> None:
    path = write("log.txt", "".join(f"{n % 17} {n % 23}\n" for n in range(500)))
    assert import_as("pairs", path).dataset.info.content_hash == import_as("pairs", path).dataset.info.content_hash


def test_an_unknown_format_and_a_flag_of_another_format_are_refused(write, import_as) -> None:
    with pytest.raises(UsageError, match="no format 'xml'; there are: pairs, table"):
        import_as("xml", write("log.txt", "1 2\n"))
    with pytest.raises(UsageError, match="--columns belongs to the formats table and jsonl"):
        import_as("pairs", write("log.txt", "1 2\n"), columns={"user_id": "a"})


def test_what_stands_at_the_output_is_not_overwritten(write, import_as, tmp_path: Path) -> None:
    write("out/letter.txt", "dear")
    with pytest.raises(DataError, match="exists and is not a dataset"):
        import_as("pairs", write("log.txt", "1 2\n"))
    assert (tmp_path / "out" / "letter.txt").read_text() == "dear"


def test_large_random_data_come_back_as_numpy_would_sort_them(tmp_path: Path, import_as) -> None:
    rng = np.random.default_rng(0)
    user, item, when = (
        rng.integers(0, 50, 20_000),
        rng.integers(0, 90, 20_000),
        rng.integers(10**9, 10**9 + 500, 20_000),
    )
    frame = pl.DataFrame({"user": user, "item": item, "ts": when})
    frame.write_csv(tmp_path / "log.csv")
    frame.write_parquet(tmp_path / "log.parquet")
    order = np.argsort(when, kind="stable")
    expected = list(zip(user[order], item[order], when[order] * 1000, order, strict=True))
    assert import_as("table", tmp_path / "log.csv").events == expected
    assert import_as("table", tmp_path / "log.parquet").events == expected


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Events with ids of their own that may repeat, times that may be equal, some rows no event."""
    rows = draw(
        st.lists(
            st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(0, 6), st.integers(0, 40)),
            min_size=1,
            max_size=60,
        )
    )
    return pl.DataFrame(rows, ["user", "item", "ts", "id"], orient="row")


def by_hand(log: pl.DataFrame, *, ids: bool, times: bool) -> list[tuple[int, int, int, int]]:
    """What an import of a log means, in plain Python: (user, item, time, event id), sorted."""
    seen, length, events = set(), dict.fromkeys(log["user"], 0), []
    rows = list(enumerate(log.rows()))
    for number, (user, item, when, event) in rows if times else sorted(rows, key=lambda row: (row[1][2], row[0])):
        if ids and event in seen:
            continue
        seen.add(event)
        events.append((user, item, when * 1000 if times else length[user], event if ids else number))
        length[user] += 1
    return sorted(events, key=lambda row: row[2:])


@settings(max_examples=40, deadline=None)
@given(logs(), st.integers(1, 70), st.booleans(), st.booleans())
def test_the_dataset_does_not_depend_on_how_many_rows_fit_into_memory(
    log: pl.DataFrame, rows_in_memory: int, ids: bool, times: bool
) -> None:
    columns = {"user_id": "user", "item_id": "item", "timestamp_ms" if times else "order": "ts"}
    reader = ReaderOptions(columns=columns | ({"event_id": "id"} if ids else {}))
    if not times and ids:  # of events with one id the first row counts, whatever its order
        log = log.unique("id", keep="first", maintain_order=True)
    with tempfile.TemporaryDirectory() as folder:
        log.write_csv(f"{folder}/log.csv")
        hashes = set()
        for most in (rows_in_memory, 1000):
            options = ImportOptions(reader=reader, max_rejected=1.0, rows_in_memory=most)
            dataset = import_dataset("table", Path(folder, "log.csv"), Path(folder, "out"), options).dataset
            events = dataset.events().select(USER_ID, ITEM_ID, TIMESTAMP_MS, EVENT_ID).collect().rows()
            assert events == by_hand(log, ids=ids, times=times)
            hashes.add(dataset.info.content_hash)
        assert len(hashes) == 1
        assert sorted(path.name for path in Path(folder).iterdir()) == ["log.csv", "out"]


EVENT_LOG = "user,item,ts,type,id\n" + "".join(f"u{n % 7},{n % 11},{10**9 + n},view,e{n}\n" for n in range(50))
QUOTED_LOG = EVENT_LOG.replace(",view,", ',"view",')
JSON_LOG = "".join(json.dumps({"u": n % 7, "i": n % 11, "t": 10**9 + n}) + "\n" for n in range(50))
COLUMNS = {"user_id": "user", "item_id": "item", "timestamp_ms": "ts", "event": "type", "event_id": "id"}


@pytest.mark.parametrize(
    ("format_name", "text", "columns"),
    [
        ("table", EVENT_LOG, COLUMNS),
        ("table", QUOTED_LOG, COLUMNS),
        ("table", QUOTED_LOG + 'u1,2,1000000000,"view,e\n', COLUMNS),
        ("jsonl", JSON_LOG, {"user_id": "u", "item_id": "i", "timestamp_ms": "t"}),
        ("pairs", pairs(50, 0), {}),
        ("userbehavior", "".join(f"1,{n % 7},5,pv,{10**9 + n}\n" for n in range(50)), {}),
        ("criteo-conversion", "".join(f"{n}\t{n + 1}{17 * chr(9)}\n" for n in range(50)), {}),
    ],
    ids=["csv", "quoted csv", "stray quote", "jsonl", "pairs", "userbehavior", "criteo-conversion"],
)
def test_no_step_over_all_events_holds_them_all(
    write, import_as, monkeypatch: pytest.MonkeyPatch, format_name: str, text: str, columns: dict[str, str]
) -> None:
    plans: list[str] = []

    def noting(run):
        def noted(frame: pl.LazyFrame, *args, **kwargs):
            if "multi-scan" in (plan := physical_plan(frame)):
                plans.append(plan)
            return run(frame, *args, **kwargs)

        return noted

    for name in ("collect", "collect_batches"):
        monkeypatch.setattr(pl.LazyFrame, name, noting(getattr(pl.LazyFrame, name)))
    import_as(format_name, write("log", text), columns=columns, event_names={"view": "impression"}, max_rejected=0.1)
    assert len(plans) >= 4
    assert [plan for plan in plans if IN_MEMORY in plan] == []


IN_MEMORY = 'fillcolor="0.0 0.3 1.0"'
"""How polars draws a step of a plan that its streaming engine leaves to the one that holds everything in memory."""


def physical_plan(frame: pl.LazyFrame) -> str:
    drawn = frame.show_graph(engine="streaming", plan_stage="physical", raw_output=True, show=False)
    assert drawn is not None
    return drawn


def test_polars_draws_in_memory_steps_as_the_test_above_expects() -> None:
    held = pl.LazyFrame({"a": ["x"]}).select(pl.col("a").replace_strict({"x": "y"}, default=None))
    assert IN_MEMORY in physical_plan(held)


@pytest.mark.parametrize("after", [0.05, 0.2, 0.5, 0.9])
def test_an_import_killed_on_the_spot_leaves_the_old_or_the_new_dataset(tmp_path: Path, after: float) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("1 2\n3 4\n")
    rows = 300_000
    new.write_text("".join(f"{n % 1000} {n % 777}\n" for n in range(rows)))
    out = tmp_path / "out"
    import_dataset("pairs", old, out)
    script = (
        "import sys; from pathlib import Path; from recsys.data.importing import ImportOptions, import_dataset\n"
        "print('start', flush=True)\n"
        "options = ImportOptions(rows_in_memory=20_000)\n"
        "import_dataset('pairs', Path(sys.argv[1]), Path(sys.argv[2]), options, lambda step: print(step, flush=True))"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", script, str(new), str(tmp_path / "whole")], check=True, capture_output=True)
    whole = time.monotonic() - began
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(new), str(out)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after * whole)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    dataset = Dataset.open(out)
    assert dataset.info.counts.events in (2, rows)
    assert dataset.events().select(pl.len()).collect().item() == dataset.info.counts.events
    import_dataset("pairs", old, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.txt", "old.txt", "out", "whole"]


@pytest.mark.data
def test_the_shared_ml_1m_imports_with_its_attributes(shared_data: Path, import_as) -> None:
    folder = shared_data / "ml-1m"
    stored = import_as(
        "table",
        folder / "interactions.parquet",
        columns={"user_id": "user", "item_id": "item", "order": "position"},
        items=folder / "items.parquet",
        item_columns={"item_id": "item", "title": "title", "year": "year", "genres": "genres"},
        users=folder / "users.parquet",
        user_columns={"user_id": "user", "gender": "gender", "age": "age", "occupation": "occupation"},
    )
    raw = pl.read_parquet(folder / "interactions.parquet")
    kept = stored.dataset.events().select(USER_ID, ITEM_ID, TIMESTAMP_MS).collect().sort(USER_ID, TIMESTAMP_MS)
    assert kept.equals(
        raw.select("user", "item", "position")
        .cast(pl.Int64)
        .rename(dict(zip(("user", "item", "position"), kept.columns, strict=True)))
    )
    assert stored.dataset.items().row(0) == (1, "Raiders of the Lost Ark", 1981, ["Action", "Adventure"])
    assert stored.dataset.users().columns == [USER_ID, "gender", "age", "occupation"]
    assert stored.dataset.info.time == "order"

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data import string_ids
from recsys.data.dataset import Dataset
from recsys.data.importing import import_dataset
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


@pytest.mark.parametrize("after", [0.05, 0.2, 0.5, 0.9])
def test_an_import_killed_on_the_spot_leaves_the_old_or_the_new_dataset(tmp_path: Path, after: float) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("1 2\n3 4\n")
    rows = 300_000
    new.write_text("".join(f"{n % 1000} {n % 777}\n" for n in range(rows)))
    out = tmp_path / "out"
    import_dataset("pairs", old, out)
    script = (
        "import sys; from pathlib import Path; from recsys.data.importing import import_dataset\n"
        "print('start', flush=True)\n"
        "import_dataset('pairs', Path(sys.argv[1]), Path(sys.argv[2]), None, lambda step: print(step, flush=True))"
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

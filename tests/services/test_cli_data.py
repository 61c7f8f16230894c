from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def recsys(tmp_path: Path) -> Run:
    """Runs `recsys data` in tmp_path, as a user would."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.cli.main", "data", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a refusal, checked to be one, with exit code 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1, done.stderr
    return complaints[0]


def test_import_then_describe(recsys: Run, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,what,when\n" + "".join(f"{n},{n % 5},16000000{n:02}\n" for n in range(40)))
    (tmp_path / "items.csv").write_text("id,name\n0,Alien\n1,Brazil\n")
    done = recsys(
        "import", "table", "log.csv", "--columns", "user_id=who,item_id=what,timestamp_ms=when",
        "--items", "items.csv", "--out", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "40 events of 40 users with 5 items" in done.stdout
    assert "times read as seconds" in done.stdout
    shown = recsys("describe", "out")
    assert shown.returncode == 0
    assert "Alien" in shown.stdout
    said = json.loads(recsys("describe", "out", "--json").stdout)
    assert said["info"]["counts"] == {
        "events": 40, "users": 40, "items": 5, "rejected": 0,
        "by_type": {"impression": 0, "click": 40, "conversion": 0},
    }  # fmt: skip


def test_append_says_what_is_new_and_what_was_there(recsys: Run, tmp_path: Path) -> None:
    header = "user_id,item_id,timestamp_ms\n"
    rows = [f"{n},{n % 5},16000000{n:02}\n" for n in range(40)]
    (tmp_path / "log.csv").write_text(header + "".join(rows[:30]))
    (tmp_path / "later.csv").write_text(header + "".join(rows[20:]))
    (tmp_path / "items.csv").write_text("item_id,title\n7,Dune\n")
    recsys("import", "table", "log.csv", "--out", "data")
    done = recsys("append", "data", "--events", "later.csv", "--items", "items.csv")
    assert done.returncode == 0, done.stderr
    said = "10 of 20 events are new, 10 were there already; data now holds 40 events of 40 users with 6 items"
    assert said in done.stdout
    again = recsys("append", "data", "--events", "later.csv", "--items", "items.csv", "--out", "other")
    assert "0 of 20 events are new, 20 were there already; other still holds 40 events" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data"], "nothing to append: give --events, --items or --users"),
        (["nowhere", "--events", "log.csv"], "nowhere does not exist"),
        (["data", "--events", "nowhere"], "nowhere does not exist"),
        (["data", "--events", "bad.csv"], "2 of 2 rows cannot be used"),
        (["data", "--events", "log.csv", "--event-names", "view=look"], "--event-names view=look: an event is one of"),
        (["data", "--item-columns", "item_id=a"], "needs --items FILE"),
        (["data", "--events", "log.csv", "--out", "."], "exists and is not a dataset"),
    ],
)
def test_a_mistake_in_an_append_leaves_the_dataset_as_it_is(
    recsys: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp_ms,event\n1,2,1600000000,click\n")
    (tmp_path / "bad.csv").write_text("user_id,item_id,timestamp_ms,event\nx,2,1600000000,click\n1,,1,stare\n")
    recsys("import", "table", "log.csv", "--out", "data")
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    assert message in refused(recsys("append", *arguments))
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


def test_rejected_rows_are_counted_and_shown(recsys: Run, tmp_path: Path) -> None:
    lines = [f"{n} {n}" for n in range(500)]
    lines[41] = "42 [x]"
    (tmp_path / "log.txt").write_text("\n".join(lines))
    done = recsys("import", "pairs", "log.txt", "--out", "out")
    assert done.returncode == 0
    assert "left out 1 of 500 rows of log.txt" in done.stdout
    assert "line 42: item_id '[x]' is not an integer" in done.stdout
    assert (tmp_path / "out" / "rejected.parquet").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "pairs", "nowhere.txt", "--out", "out"], "nowhere.txt does not exist"),
        (["import", "pairs", ".", "--out", "out"], "is a directory; give a file"),
        (["import", "pairs", "empty.txt", "--out", "out"], "empty.txt is empty"),
        (["import", "pairs", "log.txt", "--out", "taken"], "taken exists and is not a dataset"),
        (["import", "pairs", "words.txt", "--out", "out"], "item_id: 1 of 3 values are not integers"),
        (
            ["import", "pairs", "log.txt", "--columns", "user_id=a", "--out", "out"],
            "belongs to the formats table and jsonl",
        ),
        (["import", "xml", "log.txt", "--out", "out"], "no format 'xml'; there are: pairs"),
        (["import", "table", "log.csv", "--columns", "user=a", "--out", "out"], "there is no column 'user'"),
        (["import", "table", "log.csv", "--columns", "user_id", "--out", "out"], "write it as"),
        (["import", "table", "log.csv", "--columns", "user_id=a,item_id=z", "--out", "out"], "no column 'z'"),
        (["import", "table", "log.csv", "--events", "view", "--out", "out"], "view=click"),
        (
            ["import", "table", "log.csv", "--columns", "user_id=a,item_id=b,timestamp_ms=c,order=c", "--out", "out"],
            "timestamp_ms= and order= are two times",
        ),
        (["import", "table", "none.parquet", "--columns", "user_id=a,item_id=b,order=c", "--out", "out"], "no row"),
        (["import", "table", "log.csv", "--item-columns", "item_id=a", "--out", "out"], "needs --items FILE"),
        (["import", "movielens-dat", ".", "--out", "out"], "has no ratings.dat"),
        (["import", "recbole", ".", "--out", "out"], "exactly one .inter file"),
        (["describe", "nowhere"], "nowhere does not exist"),
        (["describe", "taken"], "is not a dataset: it has no dataset.json"),
        (["fetch", "netflix", "--out", "out"], "no public set 'netflix'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    recsys: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "log.txt").write_text("1 2\n")
    (tmp_path / "words.txt").write_text("1 2\n1 x\n2 3\n")
    (tmp_path / "log.csv").write_text("a,b,c\n1,2,3\n")
    pl.DataFrame({"a": [], "b": [], "c": []}).write_parquet(tmp_path / "none.parquet")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    assert message in refused(recsys(*arguments))
    assert not (tmp_path / "out").exists()


def test_too_many_bad_rows_are_kept_beside_the_output(recsys: Run, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("1 2\n3\n4\n5 6\n")
    complaint = refused(recsys("import", "pairs", "log.txt", "--out", "out"))
    assert "2 of 4 rows cannot be used" in complaint
    assert "line 2" in complaint
    assert (tmp_path / "out.rejected.parquet").is_file()


def test_a_missing_flag_is_bad_usage(recsys: Run, tmp_path: Path) -> None:
    done = recsys("import", "pairs", "log.txt")
    assert done.returncode == 2
    assert "--out" in done.stderr
    assert "Traceback" not in done.stderr

"""`recsys batch` as its user meets it: the server's answers for everybody in one file, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest

from recsys.bundle.publish import current, publish
from recsys.data.string_ids import hash_key
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.serving import RunningServer
from recsys.testing.toy import HISTORIES, write_toy
from services.cli.main import main
from services.rpc.client import Client

PATIENCE = 60.0
"""Seconds after which a test gives up waiting: what it waits for takes about one."""


def recsys(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Calls the verb in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["recsys", "batch", *(str(argument) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("stage", ["recommend", "recall"])
@pytest.mark.parametrize("seen", ["--exclude-seen", "--include-seen"])
def test_the_file_holds_what_the_server_answers_each_user(
    server: RunningServer, toy_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, seen: str
) -> None:
    users, out = tmp_path / "users.csv", tmp_path / "all.parquet"
    users.write_text("user_id\n" + "\n".join(map(str, [*HISTORIES, 99])))
    flags = ["--bundle", toy_bundles, "--out", out, "--users", users, "--stage", stage, "-k", "4", seen]
    assert recsys(monkeypatch, *flags) == 0
    frame = pl.read_parquet(out)
    assert frame["user_id"].is_sorted()
    with Client(server.address) as client:
        for user in [*HISTORIES, 99]:
            ask = client.recommend if stage == "recommend" else client.recall
            answer = ask(user, k=4, exclude_seen=seen == "--exclude-seen")
            mine = frame.filter(user_id=user)
            names = [channel.name for channel in answer.channels]
            assert mine["rank"].to_list() == list(range(1, len(mine) + 1))
            assert mine["item_id"].to_list() == answer.items.ids.tolist()
            assert mine["score"].to_list() == pytest.approx(answer.items.scores.tolist(), rel=1e-6)
            assert mine["channels"].to_list() == [
                [name for bit, name in enumerate(names) if mask >> bit & 1] for mask in answer.masks.tolist()
            ]


def test_all_users_of_the_bundle_are_answered_when_none_are_named(
    toy_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "all.parquet"
    bundle = current(toy_bundles)
    flags = ["--bundle", bundle, "--out", out, "-k", "2", "--stage", "recall", "--channels", "popularity"]
    assert recsys(monkeypatch, *flags, "--attributes", "title,year") == 0
    frame = pl.read_parquet(out)
    assert frame["user_id"].unique().sort().to_list() == sorted(HISTORIES)
    assert frame.filter(user_id=1)["title"].to_list() == ["Fargo", "Eraserhead"]
    assert frame["channels"].explode().unique().to_list() == ["popularity"]
    said = capsys.readouterr().out
    assert f"12 rows for 6 users of bundle {bundle.name} in {out}" in said
    assert "users/s" in said


def test_filters_hold_for_everybody(toy_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "all.parquet"
    flags = ["--bundle", toy_bundles, "--out", out, "--include-seen", "--attributes", "year,genres"]
    assert recsys(monkeypatch, *flags, "--filter", "genres=Crime|Romance", "--filter", "year=..1950") == 0
    assert set(pl.read_parquet(out)["item_id"]) == {30, 70}
    assert recsys(monkeypatch, *flags, "--filter", "price=2.5..4", "--filter", "year=1990..") == 0
    assert set(pl.read_parquet(out)["item_id"]) == {40, 60}


def test_users_with_string_ids_keep_their_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = write_toy(tmp_path / "data")
    publish(tmp_path / "bundles", write_toy_bundle(tmp_path / "bundles", toy, tmp_path / "work").name)
    users, out = tmp_path / "users.csv", tmp_path / "all.parquet"
    users.write_text("user_key\nbob\nann\n")
    assert recsys(monkeypatch, "--bundle", tmp_path / "bundles", "--out", out, "--users", users, "-k", "1") == 0
    frame = pl.read_parquet(out)
    assert dict(zip(frame["user_key"], frame["user_id"], strict=True)) == {
        "ann": hash_key("ann"),
        "bob": hash_key("bob"),
    }


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-k", "0"], "k = 0: must be between 1 and 1000"),
        (["-k", "1001"], "k = 1001"),
        (["--stage", "rank"], "--stage rank: must be one of recommend, recall"),
        (["--channels", "mind"], "the bundle has no such channel; it has: item_knn, popularity, two_tower"),
        (["--filter", "colour=red"], "there is no such attribute"),
        (["--filter", "year"], "--filter year: write ATTRIBUTE=VALUE"),
        (["--filter", "title=1..2"], "must be a number for min and max"),
        (["--attributes", "colour"], "attribute colour: there is no such attribute; there are: title, year"),
        (["--attributes", "title,score"], "attribute score"),
        (["--users", "absent.csv"], "absent.csv"),
        (["--data", "absent"], "absent does not exist"),
        (["--bundle", "absent"], "nothing is published there"),
        (["--out", "all.csv"], "--out all.csv: give the name of a file that ends in .parquet"),
        (["--out", "/dev/null/all.parquet"], "--out /dev/null/all.parquet: its folder cannot be made"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_users_mistake_is_one_sentence_and_leaves_no_file(
    toy_bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    out = tmp_path / "all.parquet"
    assert recsys(monkeypatch, "--bundle", toy_bundles, "--out", out, *flags) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_an_altered_bundle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "bundles", write_toy(tmp_path / "data"), tmp_path / "work")
    scores = bundle / "components" / "popularity" / "scores.npy"
    scores.write_bytes(scores.read_bytes()[:-4])
    assert recsys(monkeypatch, "--bundle", bundle, "--out", tmp_path / "all.parquet") == 2
    assert "scores.npy" in capsys.readouterr().err


def test_an_interrupt_leaves_the_old_file_and_no_process(toy_bundles: Path, tmp_path: Path) -> None:
    users, out = tmp_path / "users.csv", tmp_path / "out" / "all.parquet"
    users.write_text("user_id\n" + "\n".join(map(str, range(300_000))))
    out.parent.mkdir()
    out.write_bytes(b"old")
    command = [sys.executable, "-m", "services.cli.main", "batch", "--bundle", str(toy_bundles), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--users", str(users), "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(list(out.parent.iterdir())) < 2 and process.poll() is None:  # until the temporary file is there
        time.sleep(0.02)
    time.sleep(1)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said == f"interrupted; {out} is as it was\n"
    assert [(path.name, path.read_bytes()) for path in out.parent.iterdir()] == [("all.parquet", b"old")]
    end = time.monotonic() + PATIENCE
    while psutil.wait_procs(workers, timeout=0)[1]:
        assert time.monotonic() < end, "a worker lives on"
        time.sleep(0.02)

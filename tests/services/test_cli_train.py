"""`recsys train` as its user meets it: what it prints, what it refuses, and what an interrupt leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from recsys.bundle.publish import current
from recsys.testing.planted import Planted, write_planted
from recsys.testing.toy import write_toy
from services.cli.main import main


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "data").path


def recsys(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Calls the verb in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["recsys", *(str(argument) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("local_ray")
def test_training_ends_with_a_summary_a_published_bundle_and_what_to_type_next(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["--preset", "auto", "--data", toy, "--out", out, "--only", "popularity,item_knn"]
    code = recsys(monkeypatch, "train", *arguments)
    said = capsys.readouterr().out
    assert code == 0
    assert "item genres: list (lists of up to 2 of 6 values)" in said.splitlines()
    assert current(out / "bundles").name in said
    assert "fit:item_knn@all" in said
    assert f"recsys serve --bundles {out / 'bundles'}" in said
    assert f"recsys evaluate --bundle {out / 'bundles'} --data {toy}" in said


def test_a_printed_configuration_holds_what_the_command_line_says(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--holdout", "last", "--no-refit", "--set", "two_tower.dim=32", "--only", "popularity"]
    assert recsys(monkeypatch, "train", "--preset", "demo", "--data", toy, *flags, "--print-config") == 0
    config = tomllib.loads(capsys.readouterr().out)
    assert config["holdouts"] == ["last"]
    assert config["refit"] is False
    assert config["recipes"] == ["popularity"]
    assert config["two_tower"]["dim"] == 32


def test_a_printed_configuration_says_why_its_features_were_chosen_unless_they_were_given(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recsys(monkeypatch, "train", "--preset", "auto", "--data", toy, "--print-config") == 0
    printed = capsys.readouterr().out
    assert "# item title: left out (free text, shown to people)" in printed.splitlines()
    given = tmp_path / "given.toml"
    given.write_text('[features]\nfeatures = [{kind = "history", length = 20}]\n')
    assert recsys(monkeypatch, "train", "--preset", given, "--data", toy, "--print-config") == 0
    assert "#" not in capsys.readouterr().out


def test_a_configuration_is_printed_without_data_and_training_needs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recsys(monkeypatch, "train", "--preset", "demo", "--print-config") == 0
    assert tomllib.loads(capsys.readouterr().out)["features"] == "auto"
    assert recsys(monkeypatch, "train", "--preset", "demo") == 2
    assert "--data is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--print-config", "--only", "nearest"], "recipe 'nearest': there is no such recipe"),
        (["--print-config", "--holdout", "first"], "--holdout first"),
        (["--preset", "best"], "--preset best: neither a preset"),
        (["--only", "popularity,nearest"], "recipe 'nearest': there is no such recipe"),
        (["--holdout", "time:2"], "--holdout time:2"),
        (["--set", "two_tower.dims=3"], "there is no setting 'two_tower.dims'"),
        (["--set", "two_tower.dim=wide"], "two_tower.dim = 'wide'"),
        (["--set", "dim"], "--set dim: write it as key=value"),
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--address", "somewhere"], "--address somewhere: write HOST:PORT"),
        (["--address", "127.0.0.1:1"], "--address 127.0.0.1:1: no Ray cluster answers there"),
        (["--out", "/proc/run"], "--out /proc/run: cannot be written to"),
        (["--warm-start", "nowhere"], "--warm-start nowhere: there is no such run; give the --out of an earlier one"),
        (["--refits"], "No such option"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    tmp_path: Path,
    toy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    says: str,
) -> None:
    given = ["--preset", "demo", "--data", toy, "--out", tmp_path / "run", *flags]  # the last of a flag counts
    assert recsys(monkeypatch, "train", *given) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_a_directory_that_is_no_dataset_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recsys(monkeypatch, "train", "--preset", "demo", "--data", tmp_path) == 2
    assert f"{tmp_path} is not a dataset: it has no dataset.json" in capsys.readouterr().err


def test_killed_then_interrupted_it_leaves_no_process_and_what_was_done_stays_done(tmp_path: Path) -> None:
    """Two real runs: the first is killed with its step under way, the second continues and is interrupted."""
    data = write_planted(tmp_path / "data", Planted(users=80, items=40, mean_length=8)).path
    out = tmp_path / "run"
    arguments = ["--preset", "demo", "--holdout", "last", "--no-refit", "--only", "two_tower"]
    longer_than_the_test = ("two_tower.max_epochs=2000", "two_tower.patience=2000")
    arguments += [part for setting in longer_than_the_test for part in ("--set", setting)]
    command = [sys.executable, "-m", "services.cli.main", "train", *arguments, "--data", str(data), "--out", str(out)]
    under_way = ".work/fit:two_tower@last"
    before = fits()

    first = start(command)
    wait_for(first, out / under_way)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    wait_for_only(before)

    second = start(command)
    said = wait_for_line(second, "fit:two_tower@last: started")
    second.send_signal(signal.SIGINT)
    rest, error = second.communicate()
    assert second.returncode == 1
    assert "interrupted; the same command continues from there" in error
    assert "Traceback" not in said + rest + error
    assert "prepare@last: done before" in said
    assert not (out / "bundles").exists()
    wait_for_only(before)


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def wait_for_line(process: subprocess.Popen[str], line: str) -> str:
    """What the process has printed up to the line that starts so."""
    assert process.stdout is not None
    said = ""
    for printed in process.stdout:
        said += printed
        if printed.startswith(line):
            return said
    raise AssertionError(f"it ended without {line!r}: {said}")


def fits() -> set[int]:
    """Processes that fit a two-tower, whoever started them."""
    import psutil

    return {p.pid for p in psutil.process_iter(["cmdline"]) if "fit:two_tower" in " ".join(p.info["cmdline"] or ())}


def wait_for_only(before: set[int]) -> None:
    """Waits until no process works for the test's run any more."""
    while fits() - before:
        time.sleep(0.1)

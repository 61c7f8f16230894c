"""`recsys data simulate`, as a user would type it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def recsys(tmp_path: Path) -> Run:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.cli.main", "data", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_simulate_then_describe(recsys: Run, tmp_path: Path) -> None:
    done = recsys("simulate", "--events", "3000", "--days", "2", "--seed", "3", "--out", "market")
    assert done.returncode == 0, done.stderr
    assert "5,000 users with 2,000 items" in done.stdout
    assert "impressions" in done.stdout
    assert (tmp_path / "market" / "truth" / "truth.json").is_file()
    said = json.loads(recsys("describe", "market", "--json").stdout)
    assert said["info"]["name"] == "marketplace-small"
    assert said["info"]["source"] == "simulated: preset small, seed 3, 2 days"
    assert said["info"]["counts"]["events"] == pytest.approx(3_000, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--preset", "huge", "--out", "x"), "small, million, delayed"),
        (("--preset", "small", "--out", "x", "--events", "10"), "--events"),
        (("--preset", "small", "--out", "x", "--days", "0"), "--days"),
        (("--preset", "small", "--out", "x", "--seed", "-1"), "--seed"),
        (("--preset", "small", "--out", "x", "--seed", "99999999999999999999"), "--seed"),
        (("--preset", "small"), "--out"),
        (("--preset", "small", "--out", "taken"), "is not a dataset"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    recsys: Run, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "diary.txt").write_text("mine")
    done = recsys("simulate", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert says in done.stderr
    assert (tmp_path / "taken" / "diary.txt").read_text() == "mine"

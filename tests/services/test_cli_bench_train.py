"""`recsys bench train`: measures this trainer, and says how to get the peer where it is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.errors import UsageError
from recsys.testing.planted import Planted, write_planted
from services.cli.bench import app

QUICK = ["--seconds", "0.1", "--rounds", "1", "--batch", "256", "--dim", "8", "--history", "10", "--threads", "1"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "data"
    write_planted(folder, Planted(users=60, items=40, mean_length=8))
    return folder


@pytest.mark.skipif(importlib.util.find_spec("torch_rechub") is not None, reason="the peer is installed here")
def test_without_the_peer_it_measures_ours_and_names_the_peers_package(dataset: Path) -> None:
    answer = CliRunner().invoke(app, ["train", "--data", str(dataset), *QUICK])
    assert answer.exit_code == 0, answer.output
    assert "ours, float32" in answer.output
    assert "torch-rechub==0.9.0" in answer.output.replace("\n", "")


def test_json_says_what_was_compared_and_where(dataset: Path) -> None:
    answer = CliRunner().invoke(app, ["train", "--data", str(dataset), *QUICK, "--json"])
    assert answer.exit_code == 0, answer.output
    report = json.loads(answer.stdout)
    assert report["samples_per_s"]["ours, float32"] > 0
    assert {"item_id", "category", "tags", "history", "segment"} <= set(report["fields"])
    assert {"machine", "commit", "batch", "dim", "history", "negatives", "threads"} <= set(report)


def test_with_rows_it_fits_a_made_up_table_and_says_what_memory_that_took() -> None:
    quick = ["--rows", "1000", "--tables", "rowwise", "--seconds", "0.1", "--batch", "256", "--dim", "8", "--json"]
    answer = CliRunner().invoke(app, ["train", *quick])
    assert answer.exit_code == 0, answer.output
    fit = json.loads(answer.stdout)["fits"]["rowwise"]
    assert fit["samples_per_s"] > 0
    assert 0 < fit["data_gib"] <= fit["trained_gib"] <= fit["peak_gib"]


@pytest.mark.parametrize("given", [[], ["--rows", "1000", "--data", "somewhere"]])
def test_data_and_rows_exclude_each_other(given: list[str]) -> None:
    answer = CliRunner().invoke(app, ["train", *given])
    assert isinstance(answer.exception, UsageError)
    assert "--data DIR" in str(answer.exception)
    assert "--rows N" in str(answer.exception)

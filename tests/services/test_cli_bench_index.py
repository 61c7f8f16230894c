"""`recsys bench index`: figures for people and for machines."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from recsys.errors import MissingPartError
from recsys.index.gpu import use_gpu
from services.cli.bench import app

SMALL = ["index", "--n", "2000", "--dim", "8", "--queries", "20", "--device", "cpu"]


def test_json_has_a_figure_for_every_promise() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["machine"]
    flat, ivf = report["indexes"]
    assert (flat["kind"], flat["recall_at_100"], flat["bytes_per_item"]) == ("flat", 1.0, 32.0)
    assert ivf["kind"] == "ivf"
    assert 0 < ivf["probes"] <= ivf["lists"]
    for found in (flat, ivf):
        assert found["build_seconds"] >= 0
        assert 0 < found["micros_per_query"] <= found["micros_per_query_p99"]


def test_the_table_names_the_machine_and_the_measures() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--kind", "flat"])
    assert result.exit_code == 0
    for words in ("2,000 items × 8", "recall@100", "bytes an item", "cores"):
        assert words in result.stdout


def test_cuda_without_a_gpu_is_refused() -> None:
    if use_gpu("auto"):
        pytest.skip("this machine has a GPU")
    result = CliRunner().invoke(app, [*SMALL, "--device", "cuda"])
    assert isinstance(result.exception, MissingPartError)

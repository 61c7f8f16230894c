"""`recsys bench index`: figures for people and for machines, and a page that draws them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys.errors import BundleError, MissingPartError, UsageError
from recsys.index.config import IndexConfig
from recsys.index.gpu import use_gpu
from recsys.index.vector_index import VectorIndex
from services.cli.bench import app

SMALL = ["index", "--n", "2000", "--dim", "8", "--queries", "20", "--device", "cpu"]


class Whole(HTMLParser):
    """Fails on a page whose elements do not close in order, or that fetches anything."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.charts = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        self.charts += tag == "svg"
        if tag != "meta":
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag


def test_json_has_a_figure_for_every_promise() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["machine"]
    (world,) = report["worlds"]
    flat, ivf, ivfpq, hnsw = world["indexes"]
    assert (flat["kind"], flat["recall_at_100"], flat["bytes_per_item"]) == ("flat", 1.0, 32.0)
    assert flat["memory_bytes_per_item"] == 32
    assert 0 < ivf["probes"] <= ivf["lists"]
    assert (ivfpq["name"], ivfpq["pq_bytes"]) == ("ivfpq 2", 2)
    assert hnsw["ef_search"] > 0
    for found in world["indexes"]:
        assert found["build_seconds"] >= 0
        assert 0 < found["micros_per_query"] <= found["micros_per_query_p99"]
        assert "points" not in found
    for found in (ivf, ivfpq, hnsw):
        assert found["bytes_per_item"] == pytest.approx(32 + found["memory_bytes_per_item"], abs=0.2)


def test_the_table_names_the_machine_and_the_measures() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--kinds", "flat"])
    assert result.exit_code == 0
    for words in ("2,000 × 8", "recall@100", "everything", "cores"):
        assert words in result.stdout


def test_a_sweep_is_drawn_and_its_indexes_are_kept(tmp_path: Path) -> None:
    sweep = [*SMALL, "--n", "500", "--kinds", "flat,ivf,ivfpq", "--pq-bytes", "2", "--pq-bytes", "4"]
    result = CliRunner().invoke(app, [*sweep, "--out", str(tmp_path)])
    assert result.exit_code == 0
    report = json.loads((tmp_path / "index.json").read_text())
    assert [world["n"] for world in report["worlds"]] == [2000, 500]
    assert [found["name"] for found in report["worlds"][0]["indexes"]] == ["flat", "ivf", "ivfpq 2", "ivfpq 4"]
    for world in report["worlds"]:
        for found in world["indexes"]:
            recalls = [point["recall"] for point in found["points"]]
            assert 0 < recalls[0] <= recalls[-1] <= 1
    page = Whole()
    page.feed((tmp_path / "index.html").read_text())
    assert page.inside == []
    assert page.charts == 4
    built = {path: path.stat().st_mtime_ns for path in (tmp_path / "indexes").rglob("*.faiss")}
    assert CliRunner().invoke(app, [*sweep, "--out", str(tmp_path)]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "indexes").rglob("*.faiss")} == built


def test_vectors_of_a_saved_index_are_measured_by_its_metric(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 6), dtype=np.float32)
    VectorIndex.build(vectors, IndexConfig(metric="l2", device="cpu"))[0].save(tmp_path / "films")
    options = ["--vectors", str(tmp_path / "films"), "--kinds", "ivf", "--queries", "10", "--json"]
    (world,) = json.loads(CliRunner().invoke(app, ["index", *options]).stdout)["worlds"]
    assert (world["n"], world["dim"], world["metric"], world["queries"]) == (300, 6, "l2", "items")


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*SMALL, "--kinds", "flat,tree"])
    assert isinstance(result.exception, UsageError)
    assert "no index 'tree'" in str(result.exception)
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, [*SMALL, "--out", str(tmp_path / "file" / "out")])
    assert isinstance(result.exception, UsageError)
    assert "cannot be made" in str(result.exception)
    result = CliRunner().invoke(app, [*SMALL, "--vectors", str(tmp_path)])
    assert isinstance(result.exception, BundleError)


def test_cuda_without_a_gpu_is_refused() -> None:
    if use_gpu("auto"):
        pytest.skip("this machine has a GPU")
    result = CliRunner().invoke(app, [*SMALL, "--device", "cuda"])
    assert isinstance(result.exception, MissingPartError)

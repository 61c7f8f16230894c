"""`recsys bench tree`: figures of trees for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from recsys.errors import UsageError
from services.cli.bench import app

SMALL = ["tree", "--n", "300", "--n", "2000", "--dim", "8", "--attended", "5", "--queries", "20", "--compared", "4"]


def test_a_tree_is_measured_by_beam_beside_other_searches(tmp_path: Path) -> None:
    out = tmp_path / "tree"
    result = CliRunner().invoke(app, [*SMALL, "--beam", "100", "--beam", "2000", "--json", "--out", str(out)])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report == json.loads((out / "tree.json").read_text())
    assert report["machine"]
    assert [found["n"] for found in report["trees"]] == [300, 2000]
    for found in report["trees"]:
        assert found["bytes_per_leaf"] == 8
        assert 63 < found["vector_bytes_per_leaf"] <= 2 * 8 * 4
        for key in ("build_seconds", "every_leaf_micros", "flat_micros", "ivf_micros", "ivf_vectors_scored"):
            assert found[key] > 0
        narrow, wide = found["beams"]
        assert 0 < narrow["micros"] <= narrow["micros_p99"]
        assert narrow["nodes_scored"] <= 200 * found["depth"]
        assert 0 < narrow["recall_at_100"] <= 1
        assert narrow["regret_at_100"] >= 0
        assert wide["recall_at_100"] == 1
        assert wide["regret_at_100"] < 1e-4


def test_the_page_draws_every_search_over_the_number_of_items(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*SMALL, "--beam", "150", "--out", str(tmp_path)])
    assert result.exit_code == 0
    html = (tmp_path / "tree.html").read_text()
    assert html.count("<svg") == 2
    for line in ("beam 150", "every leaf", "flat", "ivf"):
        assert html.count(f">{line}</text>") == 2
    assert "Vectors scored by items" in html


def test_one_tree_has_a_table_and_nothing_to_draw(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, [*SMALL[:3], *SMALL[5:], "--out", str(tmp_path)]).exit_code == 0
    html = (tmp_path / "tree.html").read_text()
    assert "<svg" not in html
    assert "every leaf" in html


def test_the_table_names_the_machine_and_the_measures() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--beam", "150"])
    assert result.exit_code == 0
    for words in (
        "300",
        "2,000",
        "every leaf scored",
        "beam 150: nodes scored",
        "over 2,000 items as over 300",
        "cores",
    ):
        assert words in result.stdout


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, [*SMALL, "--out", str(tmp_path / "file" / "tree")])
    assert isinstance(result.exception, UsageError)
    assert "cannot be made" in str(result.exception)

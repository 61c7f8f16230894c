"""`recsys bench quality`: what a served channel finds of every user's last item."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recsys.testing.serving import RunningServer
from services.cli.bench import app


def measured(server: RunningServer, data: Path, *flags: str) -> dict[str, dict[str, float]]:
    result = CliRunner().invoke(app, ["quality", "--server", server.address, "--data", str(data), "--json", *flags])
    assert result.exit_code == 0, result.output
    found: dict[str, dict[str, float]] = json.loads(result.stdout)
    return found


def test_every_channel_is_measured_as_deep_as_it_was_asked(server: RunningServer, toy_bundles: Path) -> None:
    """The toy catalogue is shorter than any list: what is not had already is found by popularity."""
    whole = measured(server, toy_bundles.parent / "data")
    assert set(whole) == {"item_knn", "popularity", "two_tower"}
    assert whole["popularity"]["recall@500"] == 1.0
    assert whole["popularity"]["n"] > 0
    short = measured(server, toy_bundles.parent / "data", "--channels", "popularity", "--depth", "50")
    assert set(short) == {"popularity"}
    assert "recall@100" not in short["popularity"]
    assert short["popularity"]["hr@10"] == pytest.approx(whole["popularity"]["hr@10"])

"""`recsys bench tower`: microseconds of every user tower of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from recsys.bundle.publish import current
from recsys.errors import BundleError
from services.cli.bench import app

QUICK = ["--runs", "3", "--rounds", "2", "--length", "5", "--json"]


def test_a_tower_is_timed_alone_and_with_its_inputs(toy_bundles: Path) -> None:
    result = CliRunner().invoke(app, ["tower", "--bundle", str(toy_bundles), *QUICK])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["bundle_version"] == current(toy_bundles).name
    assert report["length"] == 5
    assert list(report["micros"]) == ["two_tower: tower", "two_tower: tower, inputs made"]
    assert all(value > 0 for value in report["micros"].values())


def test_an_empty_history_can_be_timed(toy_bundles: Path) -> None:
    result = CliRunner().invoke(app, ["tower", "--bundle", str(toy_bundles), *QUICK, "--length", "0"])
    assert result.exit_code == 0


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tower", "--bundle", str(tmp_path)])
    assert isinstance(result.exception, BundleError)

"""`recsys evaluate` writes a report for people and one for machines, and refuses in one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recsys.bundle.manifest import MANIFEST_FILE, SplitReference, read_manifest
from recsys.bundle.publish import publish
from recsys.files import write_text
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.toy import write_toy
from services.cli.main import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "data").path


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """A bundle that says that it was trained without the last events."""
    path = write_toy_bundle(tmp_path / "bundles", write_toy(tmp_path / "data"), tmp_path / "work")
    say_split(path, SplitReference(holdout="last", protocol="leave_one_out"))
    return path


def say_split(bundle: Path, split: SplitReference, twins: dict[str, str] | None = None) -> None:
    manifest = read_manifest(bundle).model_copy(update={"split": split, "twins": twins or {}})
    write_text(bundle / MANIFEST_FILE, manifest.model_dump_json())


def recsys(monkeypatch: pytest.MonkeyPatch, bundle: Path, data: Path, out: Path, *more: str) -> int:
    """Calls the verb in this process; returns its exit code."""
    arguments = ["--bundle", str(bundle), "--data", str(data), "--out", str(out), *more]
    monkeypatch.setattr(sys, "argv", ["recsys", "evaluate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_bundle_is_reported_with_its_command(
    held_out: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recsys(monkeypatch, held_out, data, tmp_path / "report") == 0
    printed = capsys.readouterr().out
    assert "leave_one_out, 4 test events" in printed
    assert "two_tower" in printed
    assert str(tmp_path / "report" / "report.html") in printed
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["cost"]["command"].startswith("recsys evaluate --bundle")
    assert {"two_tower", "popularity", "item_knn", "cascade", "ease"} <= set(
        report["protocols"]["leave_one_out"]["models"]
    )


def test_the_current_bundles_twin_is_named(
    held_out: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refit = write_toy_bundle(held_out.parent, write_toy(tmp_path / "data"), tmp_path / "again")
    say_split(refit, SplitReference(holdout="none", refit=True), {"leave_one_out": held_out.name})
    publish(held_out.parent, refit.name)
    assert recsys(monkeypatch, held_out.parent, data, tmp_path / "report", "--no-baselines") == 0
    printed = capsys.readouterr().out
    assert f"leave_one_out: bundle {refit.name} has seen these events; its twin is {held_out.name}" in printed


def test_a_bundle_that_saw_everything_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_toy_bundle(tmp_path / "bundles", write_toy(tmp_path / "data"), tmp_path / "work")
    assert recsys(monkeypatch, path, data, tmp_path / "report") == 2
    assert "was trained on every event" in capsys.readouterr().err
    assert not (tmp_path / "report" / "report.json").exists()


@pytest.mark.parametrize("missing", ["bundle", "data"])
def test_what_is_not_there_is_named(
    missing: str,
    held_out: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    absent = tmp_path / "absent"
    bundle, dataset = (absent, data) if missing == "bundle" else (held_out, absent)
    assert recsys(monkeypatch, bundle, dataset, tmp_path / "report") == 2
    assert str(absent) in capsys.readouterr().err


def test_a_file_in_the_place_of_the_report_is_refused_before_the_work(
    held_out: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").write_text("mine")
    assert recsys(monkeypatch, held_out, data, tmp_path / "report") == 2
    assert "--out" in capsys.readouterr().err
    assert (tmp_path / "report").read_text() == "mine"


def test_a_single_vector_that_the_bundle_lacks_is_refused_by_name(
    held_out: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recsys(monkeypatch, held_out, data, tmp_path / "report", "--single-vector", "two_towers") == 2
    assert "--single-vector two_towers: no channel of" in capsys.readouterr().err
    assert not (tmp_path / "report" / "report.html").exists()

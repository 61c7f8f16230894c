"""`recsys bundle` lists, verifies, publishes and rolls back, and refuses in one sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recsys.bundle.publish import current, list_bundles
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.toy import write_toy
from services.cli.main import main


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A folder with two versions."""
    dataset = write_toy(tmp_path / "data")
    for weight in (1.0, 2.0):
        write_toy_bundle(tmp_path / "bundles", dataset, tmp_path / f"work-{weight}", popularity_weight=weight)
    return tmp_path / "bundles"


def recsys(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Calls the verb in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["recsys", "bundle", *(str(argument) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_life_of_two_versions(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (listed.version for listed in list_bundles(bundles))
    for version in (first, second):
        assert recsys(monkeypatch, "publish", version, "--bundles", bundles) == 0
        assert current(bundles).name == version
    capsys.readouterr()
    assert recsys(monkeypatch, "list", "--bundles", bundles, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(entry["version"], entry["served"]) for entry in listed] == [(first, False), (second, True)]
    assert recsys(monkeypatch, "list", "--bundles", bundles) == 0
    assert f"→  {second}" in capsys.readouterr().out
    assert recsys(monkeypatch, "verify", "--bundles", bundles) == 0
    assert f"{second}: whole" in capsys.readouterr().out
    assert recsys(monkeypatch, "rollback", "--bundles", bundles) == 0
    assert current(bundles).name == first


def test_a_damaged_version_is_named_by_its_file(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = list_bundles(bundles)[0]
    (damaged.path / "items.arrow").write_bytes(b"")
    for verb in ("verify", "publish"):
        assert recsys(monkeypatch, verb, damaged.version, "--bundles", bundles) == 2
        assert "items.arrow: has 0 bytes" in capsys.readouterr().err
    assert recsys(monkeypatch, "verify", damaged.path, "--bundles", bundles) == 2


@pytest.mark.parametrize("version", ["nope", "../data", "20200101T000000000Z-00000000"])
def test_a_version_that_is_not_there_is_refused(
    bundles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    assert recsys(monkeypatch, "publish", version, "--bundles", bundles) == 2
    assert "there is no version" in capsys.readouterr().err


def test_nothing_to_go_back_to_and_nothing_there_at_all(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recsys(monkeypatch, "rollback", "--bundles", bundles) == 2
    assert "no version was served before" in capsys.readouterr().err
    assert recsys(monkeypatch, "list", "--bundles", tmp_path / "nowhere") == 2
    assert "there is no such folder" in capsys.readouterr().err

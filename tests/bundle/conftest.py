"""Bundles over the toy dataset, and folders of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.testing.bundles import write_toy_bundle
from recsys.testing.toy import write_toy


@pytest.fixture(scope="session")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two versions, none of them published."""
    folder = tmp_path_factory.mktemp("toy")
    dataset = write_toy(folder / "data")
    for weight in (1.0, 2.0):
        write_toy_bundle(folder / "bundles", dataset, folder / f"work-{weight}", popularity_weight=weight)
    return folder / "bundles"


@pytest.fixture
def bundles(two_versions: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to do with as a test likes."""
    return shutil.copytree(two_versions, tmp_path / "bundles")


@pytest.fixture
def another(bundles: Path) -> Callable[[], str]:
    """Makes one more version, a copy of the newest under a later name, and returns its name."""

    def make() -> str:
        newest = max(path for path in bundles.iterdir() if path.is_dir())
        name = f"{newest.name}-later"
        copy = shutil.copytree(newest, bundles / name)
        manifest = copy / "manifest.json"
        manifest.write_text(manifest.read_text().replace(f'"{newest.name}"', f'"{name}"'))
        return name

    return make

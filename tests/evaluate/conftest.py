"""Toy data, and toy bundles that say what they were trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys.bundle.manifest import MANIFEST_FILE, SplitReference, read_manifest
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout, Split, split
from recsys.files import write_text
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.planted import Planted, write_planted
from recsys.testing.toy import write_toy

BundleWriter = Callable[..., Path]


@pytest.fixture
def toy(tmp_path: Path) -> Dataset:
    return write_toy(tmp_path / "toy")


@pytest.fixture
def planted(tmp_path: Path) -> Dataset:
    return write_planted(tmp_path / "planted", Planted(users=120, items=60))


@pytest.fixture
def last(toy: Dataset) -> Split:
    return split(toy, Catalogue.from_dataset(toy), Holdout.parse("last"))


@pytest.fixture
def write_bundle(tmp_path: Path) -> BundleWriter:
    """A function of dataset, hold-out and changes to the manifest that writes a bundle and returns its folder."""
    counter = iter(range(100))

    def write(dataset: Dataset, holdout: str, *, refit: bool = False, **changes: Any) -> Path:
        path = write_toy_bundle(tmp_path / "bundles", dataset, tmp_path / f"work{next(counter)}")
        kept = Holdout.parse(holdout)
        cut_off = split(dataset, Catalogue.from_dataset(dataset), kept).cut_off_ms
        of = SplitReference(holdout=holdout, protocol=kept.protocol, cut_off_ms=cut_off, refit=refit)
        manifest = read_manifest(path).model_copy(update={"split": of, **changes})
        write_text(path / MANIFEST_FILE, manifest.model_dump_json())
        return path

    return write

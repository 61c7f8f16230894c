"""What the tests of data share: small files, and imports that say what was stored and what was left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.columns import EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.dataset import Dataset
from recsys.data.importing import ImportOptions, import_dataset
from recsys.data.readers.raw import ReaderOptions


@dataclass(frozen=True)
class Stored:
    """An imported dataset, in terms a test can compare."""

    dataset: Dataset
    time: str

    @property
    def events(self) -> list[tuple[int, int, int, int]]:
        """(user, item, time, event id) in the stored order."""
        return self.dataset.events().select(USER_ID, ITEM_ID, TIMESTAMP_MS, EVENT_ID).collect().rows()

    @property
    def rejected(self) -> list[tuple[str, int, str, str]]:
        """(file, line, reason, row) as kept in the dataset."""
        file = self.dataset.path / "rejected.parquet"
        return pl.read_parquet(file).rows() if file.exists() else []


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Writes a file, byte for byte."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def import_as(tmp_path: Path) -> Callable[..., Stored]:
    """Imports a path into tmp_path/out; keyword arguments are those of ReaderOptions and ImportOptions."""

    def run(format_name: str, path: Path, **options: Any) -> Stored:
        names = ("columns", "items", "item_columns", "users", "user_columns")
        reader = ReaderOptions(**{name: options.pop(name) for name in names if name in options})
        imported = import_dataset(format_name, path, tmp_path / "out", ImportOptions(reader=reader, **options))
        return Stored(imported.dataset, imported.time)

    return run

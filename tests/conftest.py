"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with ml-1m, ml-100k and airbnb; tests that need it are skipped without it."""
    folder = Path(os.environ.get("RECSYS_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "ml-1m" / "interactions.parquet").is_file():
        pytest.skip(f"the data sets are not at {folder}; set RECSYS_SHARED_DATA to the folder that holds ml-1m")
    return folder

"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# A shell starts what runs in the background with Ctrl-C ignored, and children inherit that: tests interrupt some.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure of the code under test. CI repeats the same examples, so that a verdict is about the
# change and not about luck; whoever works on the code draws new ones every time.
settings.register_profile("patient", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("patient")


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


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray session for all tests that train: starting it takes longer than they do.

    Its workers, and the tests, import modules that lie beside the tests by their names.
    """
    folders = [REPOSITORY / "tests" / name for name in ("pipelines", "e2e")]
    with pytest.MonkeyPatch.context() as patch:
        for folder in folders:
            patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(str(folder) for folder in folders))
        from pipelines.cluster import ray_cluster

        with ray_cluster(None, cpus=2):
            yield

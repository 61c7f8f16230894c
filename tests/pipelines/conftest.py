"""One Ray session for all tests of the pipelines: starting it takes longer than they do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setenv("PYTHONPATH", str(HERE))  # workers import the steps of the tests by their module's name
        from pipelines.cluster import ray_cluster

        with ray_cluster(None, cpus=2):
            yield

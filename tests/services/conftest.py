"""A server over the toy bundle for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from recsys.bundle.publish import publish
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.serving import RunningServer
from recsys.testing.toy import write_toy


@pytest.fixture(scope="session")
def toy_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one published version; not to be changed."""
    folder = tmp_path_factory.mktemp("serving")
    dataset = write_toy(folder / "data")
    bundle = write_toy_bundle(folder / "bundles", dataset, folder / "work")
    publish(folder / "bundles", bundle.name)
    return folder / "bundles"


@pytest.fixture(scope="session")
def server(toy_bundles: Path) -> Iterator[RunningServer]:
    with RunningServer(toy_bundles, "--workers", "2") as running:
        yield running


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def admin_channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.admin) as opened:
        yield opened

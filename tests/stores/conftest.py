"""A real Valkey server for the tests of stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recsys.stores.embedded import EmbeddedValkey


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server

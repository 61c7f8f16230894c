"""One small world for all tests of the simulator."""

from __future__ import annotations

import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.marketplace.laws import Laws
from recsys.data.marketplace.presets import laws_of
from recsys.data.marketplace.simulate import simulate
from recsys.data.marketplace.truth import MarketplaceTruth


@pytest.fixture(scope="session")
def laws() -> Laws:
    """The preset small with fewer users, items and days."""
    return laws_of("small", users=800, items=300, days=8, events=200_000)


@pytest.fixture(scope="session")
def market(laws: Laws, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return simulate(tmp_path_factory.mktemp("market") / "data", laws)


@pytest.fixture(scope="session")
def truth(market: Dataset) -> MarketplaceTruth:
    return MarketplaceTruth.open(market.path)


@pytest.fixture(scope="session")
def log(market: Dataset, truth: MarketplaceTruth) -> pl.DataFrame:
    """Every event beside its truth; `item` is the row of the catalogue, `hour` that of the simulation."""
    hour = (pl.col("timestamp_ms") - truth.laws.start_ms) // 3_600_000
    joined = market.events().join(truth.events(), on="event_id").collect()
    return joined.sort("event_id").with_columns((pl.col("item_id") - 1).alias("item"), hour.alias("hour"))


@pytest.fixture(scope="session")
def delayed() -> Laws:
    """The preset delayed over two of its waves, with fewer users and items."""
    return laws_of("delayed", days=42, users=3_000, items=1_000, events=250_000)

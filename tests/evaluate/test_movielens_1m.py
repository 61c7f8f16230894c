"""The yardsticks on ML-1M, leave-one-out, against figures measured elsewhere on the same data and protocol."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import write_dataset
from recsys.data.splits import Holdout, Split, split
from recsys.evaluate.baselines import FitData, fit_ease, fit_item_knn, fit_popularity
from recsys.evaluate.metrics import hit_rate, ndcg
from recsys.evaluate.ranking import rank_yardstick

ITEMS = 3_416


@pytest.fixture(scope="module")
def divided(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    events = pl.read_parquet(shared_data / "ml-1m" / "interactions.parquet").select(
        pl.col("user").alias(USER_ID), pl.col("item").alias(ITEM_ID), pl.col("position").alias(TIMESTAMP_MS)
    )
    dataset = write_dataset(tmp_path_factory.mktemp("ml1m") / "data", events=events, name="ml-1m", time="order")
    return split(dataset, Catalogue.from_dataset(dataset), Holdout.parse("last"))


@pytest.fixture(scope="module")
def data(divided: Split) -> FitData:
    return FitData(divided.train, ITEMS, real_times=False)


@pytest.mark.data
@pytest.mark.parametrize(
    ("fit", "settings", "hit_rate_at_10", "ndcg_at_10"),
    [
        (fit_popularity, {}, 0.0369, 0.0180),
        (fit_item_knn, {"neighbours": 50}, 0.0796, 0.0399),
        (fit_ease, {"lambda": 1_000.0, "decay": 0.8}, 0.2320, 0.1290),
    ],
    ids=["popularity", "item_knn_cosine", "ease_recency"],
)
def test_yardsticks_reach_the_figures_of_their_peers(
    divided: Split, data: FitData, fit, settings, hit_rate_at_10: float, ndcg_at_10: float
) -> None:
    assert divided.test is not None
    ranks = rank_yardstick(fit(data, settings), divided.test, ITEMS).ranks
    assert len(ranks) == 6_040
    assert hit_rate(ranks, 10).mean() == pytest.approx(hit_rate_at_10, abs=0.004)
    assert ndcg(ranks, 10).mean() == pytest.approx(ndcg_at_10, abs=0.004)

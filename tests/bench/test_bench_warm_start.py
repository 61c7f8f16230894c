"""What a warm start saves on ML-1M: epochs and seconds to the validation NDCG@10 of a fit from scratch.

The earlier run has all but the newest twentieth of every user's events, and does not know 3% of the items, which come
up in that twentieth for the first time. Run with `pytest -m bench -s tests/bench/test_bench_warm_start.py`.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.prepared import Prepared, prepare
from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.dataset import write_dataset
from recsys.data.splits import Holdout
from recsys.features.auto import infer_definition
from recsys.recipes.two_tower import TwoTowerConfig, TwoTowerRecipe
from recsys.train.progress import QuietProgress

pytestmark = [pytest.mark.bench, pytest.mark.data]

SETTINGS = {"history": "mean", "history_length": 50, "batch_users": 32, "max_epochs": 15, "ema": 0.998}
NEWEST, NEW_ITEMS = 0.05, 0.03
SEEDS = (0, 1, 2)

Curve = list[tuple[float, float]]
"""NDCG@10 on validation, and the seconds since the start, after each epoch."""


def events(shared_data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Those of the earlier run, and all."""
    every = pl.read_parquet(shared_data / "ml-1m" / "interactions.parquet").select(
        pl.col("user").alias(USER_ID), pl.col("item").alias(ITEM_ID), pl.col("position").alias(TIMESTAMP_MS)
    )
    place = pl.col(TIMESTAMP_MS).rank("ordinal").over(USER_ID)
    newest = place > ((1 - NEWEST) * pl.len().over(USER_ID)).floor()
    ids = every[ITEM_ID].unique().sort().to_numpy()
    unknown = np.random.default_rng(0).choice(ids, int(NEW_ITEMS * len(ids)), replace=False)
    marked = every.with_columns(newest.alias("newest")).filter(pl.col("newest") | ~pl.col(ITEM_ID).is_in(unknown))
    return marked.filter(~pl.col("newest")).drop("newest"), marked.drop("newest")


def prepared(folder: Path, frame: pl.DataFrame, shared_data: Path) -> Prepared:
    items = pl.read_parquet(shared_data / "ml-1m" / "items.parquet").rename({"item": ITEM_ID}).drop("movielens_id")
    dataset = write_dataset(folder / "data", events=frame, items=items, name="ml-1m", time="order")
    (folder / "prepared").mkdir()
    prepare(dataset, Holdout("last"), infer_definition(dataset), folder / "prepared", everything=False)
    return Prepared.open(folder / "prepared")


def fitted(data: Prepared, out: Path, seed: int, start: Path | None = None) -> tuple[dict[str, float], Curve]:
    """Metrics and curve; `out` can be started from."""
    scratch = out / "scratch"
    scratch.mkdir(parents=True)
    view = replace(data.view(seed=seed, threads=1, device="cpu"), start=start)
    config = TwoTowerConfig.model_validate(SETTINGS)
    metrics = TwoTowerRecipe().fit(config, view, {}, out, QuietProgress(scratch))
    data.features.save(out / "features")
    record = json.loads((out / "components" / "two_tower" / "training.json").read_text())
    return metrics, [(epoch["metrics"]["ndcg@10"], epoch["seconds"]) for epoch in record["curve"]]


def reached(curve: Curve, wanted: float) -> tuple[float, float]:
    """Epochs and seconds until NDCG@10 was at least `wanted`; infinite where it never was."""
    for epoch, (ndcg, seconds) in enumerate(curve, start=1):
        if ndcg >= wanted:
            return epoch, seconds
    return np.inf, np.inf


def test_what_a_warm_start_saves(shared_data: Path, tmp_path: Path) -> None:
    before, after = (
        prepared(tmp_path / name, frame, shared_data)
        for name, frame in zip(("before", "after"), events(shared_data), strict=True)
    )
    rows = []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        fitted(before, folder / "before", seed)
        _, cold = fitted(after, folder / "cold", seed)
        began, warm = fitted(after, folder / "warm", seed, folder / "before")
        best = max(ndcg for ndcg, _ in cold)
        for share in (0.95, 0.99, 1.0):
            (cold_epochs, cold_s), (epochs, seconds) = reached(cold, share * best), reached(warm, share * best)
            rows.append((share, cold_epochs, epochs, cold_s, seconds, cold_s / seconds))
        print(
            f"seed {seed}: from scratch {best:.4f}, {began['new_items']:.0f} new items, warm start begins at "
            f"{began['start_validation_ndcg@10']:.4f} and ends at {max(ndcg for ndcg, _ in warm):.4f}"
        )
    print("of scratch's best | epochs scratch, warm | seconds scratch, warm | ratio (medians)")
    for share in (0.95, 0.99, 1.0):
        medians = [statistics.median(row[at] for row in rows if row[0] == share) for at in range(1, 6)]
        print("{:.0%} | {:.0f}, {:.0f} | {:.0f}, {:.0f} | {:.1f} ×".format(share, *medians))
    assert all(np.isfinite(row[4]) for row in rows if row[0] == 0.95)

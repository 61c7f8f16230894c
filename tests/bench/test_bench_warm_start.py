"""What a warm start saves on ML-100K: epochs and seconds to the validation NDCG@10 of a fit from scratch.

The earlier run has all but the newest twentieth of every user's events. Run with
`pytest -m bench -s tests/bench/test_bench_warm_start.py`.
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
from recsys.recipes import RECIPES
from recsys.train.progress import QuietProgress

pytestmark = [pytest.mark.bench, pytest.mark.data]

SETTINGS = {
    "dim": 32, "history_length": 50, "blocks": 1, "widening": 2, "batch_users": 8, "max_epochs": 15, "ema": 0.99
}  # fmt: skip
OF_RECIPE: dict[str, dict[str, object]] = {"two_tower": {}, "tdm": {"round_epochs": 15, "tree": "categories"}}
NEWEST = 0.05
SEEDS = (0, 1, 2)

Curve = list[tuple[float, float]]
"""NDCG@10 on validation, and the seconds since the start, after each epoch."""


def prepared(folder: Path, shared_data: Path, *, newest: bool) -> Prepared:
    """ML-100K with or without the newest twentieth of every user's events."""
    source = shared_data / "ml-100k"
    events = pl.read_parquet(source / "interactions.parquet").select(
        pl.col("user").alias(USER_ID),
        pl.col("item").alias(ITEM_ID),
        (pl.col("timestamp") * 1000).alias(TIMESTAMP_MS),
    )
    place = pl.col(TIMESTAMP_MS).rank("ordinal").over(USER_ID)
    older = place <= ((1 - NEWEST) * pl.len().over(USER_ID)).floor()
    dataset = write_dataset(
        folder / "data",
        events=events if newest else events.filter(older),
        items=pl.read_parquet(source / "items.parquet").rename({"item": ITEM_ID}),
        users=pl.read_parquet(source / "users.parquet").rename({"user": USER_ID}),
        name="ml-100k",
        time="real",
    )
    (folder / "prepared").mkdir()
    prepare(dataset, Holdout("last"), infer_definition(dataset), folder / "prepared", everything=False)
    return Prepared.open(folder / "prepared")


def fitted(
    recipe: str, data: Prepared, out: Path, seed: int, start: Path | None = None
) -> tuple[dict[str, float], Curve]:
    """Metrics and curve; `out` can be started from."""
    scratch = out / "scratch"
    scratch.mkdir(parents=True)
    view = replace(data.view(seed=seed, threads=1, device="cpu"), start=start)
    config = RECIPES[recipe].config_type.model_validate(SETTINGS | OF_RECIPE[recipe])
    metrics = RECIPES[recipe].fit(config, view, {}, out, QuietProgress(scratch))
    data.features.save(out / "features")
    view.catalogue.save(out)
    record = json.loads((out / "components" / recipe / "training.json").read_text())
    curve = record["rounds"][-1]["curve"] if "rounds" in record else record["curve"]
    return metrics, [(epoch["metrics"]["ndcg@10"], epoch["seconds"]) for epoch in curve]


def reached(curve: Curve, wanted: float) -> tuple[float, float]:
    """Epochs and seconds until NDCG@10 was at least `wanted`; infinite where it never was."""
    for epoch, (ndcg, seconds) in enumerate(curve, start=1):
        if ndcg >= wanted:
            return epoch, seconds
    return np.inf, np.inf


@pytest.mark.parametrize("recipe", list(OF_RECIPE))
def test_what_a_warm_start_saves(shared_data: Path, tmp_path: Path, recipe: str) -> None:
    before = prepared(tmp_path / "before", shared_data, newest=False)
    after = prepared(tmp_path / "after", shared_data, newest=True)
    rows = []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        fitted(recipe, before, folder / "before", seed)
        _, cold = fitted(recipe, after, folder / "cold", seed)
        began, warm = fitted(recipe, after, folder / "warm", seed, folder / "before")
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
        assert share > 0.95 or medians[4] > 1

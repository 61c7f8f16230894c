"""What hiding ids costs known items and gives new ones: the small marketplace, settings compared on validation.

Cold are the clicks of the validation part on items without a click before it, each ranked among all items. Run with
`pytest -m bench -s tests/bench/test_bench_cold_items.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.prepared import Prepared, prepare
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.interactions import EvaluationSet
from recsys.data.marketplace.presets import laws_of
from recsys.data.marketplace.simulate import simulate
from recsys.data.splits import Holdout, split
from recsys.evaluate.cold_items import cold_events
from recsys.features.auto import infer_definition
from recsys.recipes.retriever_recipe import train
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.train.progress import QuietProgress
from recsys.train.validation import RankingValidator
from recsys.train.view import TrainView

pytestmark = pytest.mark.bench

HOLDOUT = Holdout.parse("time:0.1")
SETTINGS: Mapping[str, Any] = {
    "history": "mean", "batch_users": 32, "lr": 4e-3, "ema": 0.99, "max_epochs": 5, "validate_every": 5
}  # fmt: skip
RATES = (0.0, 0.05, 0.1, 0.2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return simulate(tmp_path_factory.mktemp("market") / "data", laws_of("small"))


@pytest.fixture(scope="module")
def view(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(dataset, HOLDOUT, infer_definition(dataset), folder, everything=False)
    return Prepared.open(folder).view(seed=0, threads=1, device="cpu")


@pytest.fixture(scope="module")
def cold(dataset: Dataset) -> EvaluationSet:
    catalogue = Catalogue.from_dataset(dataset)
    parts = split(dataset, catalogue, HOLDOUT)
    return cold_events(replace(parts, everything=parts.known, known=parts.train), len(catalogue))


@pytest.mark.parametrize("rate", RATES)
def test_known_and_cold_items_by_the_share_of_hidden_ids(
    view: TrainView, cold: EvaluationSet, tmp_path: Path, rate: float
) -> None:
    torch.manual_seed(0)
    config = TwoTowerConfig(**SETTINGS, id_dropout=rate)
    model = build_model(config, view)
    result, _ = train(model, config, view, QuietProgress(tmp_path))
    ranks = RankingValidator(cold, view.encoder, view.user_frame).ranks(model.eval())
    known = result.curve[-1].metrics
    found = ", ".join(f"recall@{k} {np.mean(ranks <= k):.4f}" for k in (10, 50, 100))
    print(
        f"\nid_dropout {rate}: known HR@10 {known['hr@10']:.4f}, NDCG@10 {known['ndcg@10']:.4f}; {len(cold)} cold, "
        f"{len(np.unique(cold.target))} items: {found}, median rank {np.median(ranks):.0f}"
    )

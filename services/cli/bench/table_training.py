"""Training with a large item table: the recipe's whole fit in a process of its own, its pace and its peak memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import polars as pl

from recsys.columns import ITEM_ID, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.features.definition import FeatureDefinition, HistoryFeature, IdFeature
from recsys.features.feature_set import FeatureSet
from recsys.features.online import OnlineEncoder
from recsys.recipes.two_tower import TwoTowerConfig, TwoTowerRecipe
from recsys.train.view import TrainView
from recsys.types import offsets_of

Tables: TypeAlias = Literal["rowwise", "dense"]
OPTIMISERS: Final[tuple[Tables, ...]] = ("rowwise", "dense")

HISTORY: Final = 50
_EVENTS_A_USER: Final = HISTORY
_FEWEST_USERS: Final = 20_000
_SHARE_OF_POPULAR: Final = 0.5
_TARGETS: Final = 200
_INDEX: Final = {"lists": 1_024, "probes": 16, "tuning_queries": 20, "recall_target": 0.01}
"""Few lists, untuned: clustering and tuning would take far longer than all else, and hardly more memory."""


@dataclass(frozen=True, slots=True)
class TableWorkload:
    """What is trained.

    Attributes:
        rows: items, each with a row in the table.
        batch: targets a step, about.
        dim: width of the table.
        seconds: how long the steps go on.
        threads: of torch.
    """

    rows: int
    batch: int
    dim: int
    seconds: float
    threads: int


@dataclass(slots=True)
class _PeakProgress:
    """Remembers the process's peak memory when the last epoch was done: validated, and its checkpoint written."""

    scratch: Path
    trained: float = field(default=0.0)

    def update(self, done: int, total: int, message: str, **metrics: float) -> None:
        """Takes down the peak so far."""
        self.trained = _peak_gib()


def measure_fit(workload: TableWorkload, tables: Tables) -> dict[str, float]:
    """Fits in a new process.

    Returns:
        samples_per_s of the steps, fit_seconds of all, and the peaks in GiB of resident memory: data_gib before the
        fit, trained_gib with validation and checkpoint, peak_gib with export and index.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_fit, workload, tables).result()


def _fit(workload: TableWorkload, tables: Tables) -> dict[str, float]:
    view = synthetic_view(workload)
    config: dict[str, Any] = {
        "dim": workload.dim,
        "history": "mean",
        "loss": "sampled_softmax",
        "batch_users": max(1, workload.batch // HISTORY),
        "table_optimiser": tables,
        "time_budget_s": workload.seconds,
        "max_epochs": 1,
        "index": _INDEX,
    }
    data = _peak_gib()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scratch").mkdir()
        progress = _PeakProgress(Path(folder) / "scratch")
        began = time.perf_counter()
        metrics = TwoTowerRecipe().fit(TwoTowerConfig.model_validate(config), view, {}, Path(folder), progress)
        seconds = time.perf_counter() - began
    return {
        "samples_per_s": metrics["samples_per_s"],
        "fit_seconds": seconds,
        "data_gib": data,
        "trained_gib": progress.trained,
        "peak_gib": _peak_gib(),
    }


def synthetic_view(workload: TableWorkload, seed: int = 0) -> TrainView:
    """A view in which every item has been seen; half of the choices fall evenly, half by a power law."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({ITEM_ID: np.arange(1, workload.rows + 1)})
    catalogue = Catalogue(frame)
    definition = FeatureDefinition(features=(IdFeature(side="item"), HistoryFeature(length=HISTORY)))
    seen = frame.with_columns(pl.lit(1).alias(USER_ID))
    features = FeatureSet.fit(definition, items=frame, users=frame.select(USER_ID=ITEM_ID).head(1), events=seen)
    users = max(_FEWEST_USERS, workload.rows // _EVENTS_A_USER)
    lengths = rng.integers(3, 2 * _EVENTS_A_USER, users)
    rows = rng.integers(0, workload.rows, int(lengths.sum()), dtype=np.int32)
    popular = rng.random(len(rows)) < _SHARE_OF_POPULAR
    rows[popular] = workload.rows * rng.random(int(popular.sum())) ** 4
    sequences = Interactions(np.arange(1, users + 1), offsets_of(lengths), rows, np.arange(len(rows), dtype=np.int64))
    last = np.zeros(len(rows), np.bool_)
    last[sequences.offsets[1:] - 1] = True
    validation = EvaluationSet(
        sequences,
        np.arange(_TARGETS, dtype=np.int32),
        (lengths[:_TARGETS] - 1).astype(np.int32),
        rows[last][:_TARGETS],
    )
    return TrainView(
        catalogue=catalogue,
        features=features,
        encoder=OnlineEncoder(features, catalogue),
        items={},
        users={},
        train=sequences.where(~last),
        validation=validation,
        user_frame=None,
        threads=workload.threads,
        device="cpu",
    )


def _peak_gib() -> float:
    """Largest resident memory of this process so far; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

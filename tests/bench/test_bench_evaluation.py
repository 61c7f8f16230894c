"""Memory and time of a whole `recsys evaluate`: a million items, one test event of each of 100,000 users.

Run with `pytest -m bench -s tests/bench/test_bench_evaluation.py`; prints the seconds of each part.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pytest

from recsys.bundle.manifest import MANIFEST_FILE, SplitReference, read_manifest
from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.dataset import Dataset, write_dataset
from recsys.files import write_text
from recsys.testing.bundles import write_toy_bundle
from recsys.types import Floats

pytestmark = pytest.mark.bench

ITEMS, DIM, USERS = 1_000_000, 64, 100_000
CLUSTERS: Final = 4_000
LONGEST: Final = 60
MOST_MIB: Final = 2048


def world(path: Path) -> tuple[Dataset, Floats]:
    """Users who take 20 to 60 items of three clusters, and the vectors (N, d) of clustered items."""
    rng = np.random.default_rng(0)
    cluster = np.sort(rng.integers(0, CLUSTERS, ITEMS))
    first = np.searchsorted(cluster, np.arange(CLUSTERS + 1))
    lengths = rng.integers(20, LONGEST + 1, USERS)
    user = np.repeat(np.arange(USERS), lengths)
    chosen = rng.integers(0, CLUSTERS, (USERS, 3))[user, rng.integers(0, 3, len(user))]
    row = rng.integers(first[chosen], first[chosen + 1])
    events = pl.DataFrame({USER_ID: user + 1, ITEM_ID: row + 1, TIMESTAMP_MS: np.arange(len(user)) * 1_000})
    items = pl.DataFrame({ITEM_ID: np.arange(1, ITEMS + 1)})
    centres = rng.standard_normal((CLUSTERS, DIM), np.float32)
    vectors = centres[cluster] + 0.5 * rng.standard_normal((ITEMS, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return write_dataset(path, events=events, items=items, name="clusters", time="real"), vectors


def bundle(dataset: Dataset, vectors: Floats, folder: Path) -> Path:
    """A bundle of popularity, neighbours and an index over the vectors that says it has not seen the last events."""
    path = write_toy_bundle(folder / "bundles", dataset, folder / "work", vectors=vectors)
    last = SplitReference(holdout="last", protocol="leave_one_out")
    write_text(path / MANIFEST_FILE, read_manifest(path).model_copy(update={"split": last}).model_dump_json())
    return path


def evaluated(path: Path, dataset: Dataset, out: Path) -> dict[str, Any]:
    """What `recsys evaluate` says in a process of its own, which measures its own memory."""
    command = [sys.executable, "-m", "services.cli.main", "evaluate", "--max-events", "0"]
    command += ["--bundle", str(path), "--data", str(dataset.path), "--out", str(out)]
    subprocess.run(command, check=True)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_a_million_items_and_100_000_users_fit_into_two_gib(tmp_path: Path) -> None:
    dataset, vectors = world(tmp_path / "data")
    path = bundle(dataset, vectors, tmp_path)
    del vectors
    report = evaluated(path, dataset, tmp_path / "report")
    found, cost = report["protocols"]["leave_one_out"], report["cost"]
    print(f"\n{cost['machine']}: {cost['seconds']:.0f} s, at most {cost['peak_memory_mib']:.0f} MiB")
    for part, seconds in cost["seconds_by_part"]["leave_one_out"].items():
        print(f"{part:40} {seconds:8.1f} s")
    print(found["skipped"])
    assert found["models"]["two_tower"]["n"] > 0.9 * USERS  # the others' last item is one they had
    assert "items × items" in found["skipped"]["ease"]
    assert "users and items" in found["skipped"]["ials"]
    assert {"popularity", "recent_popularity", "item_knn_cosine"} <= set(found["models"])
    assert cost["peak_memory_mib"] < MOST_MIB

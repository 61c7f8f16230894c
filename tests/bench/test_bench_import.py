"""Rows a second of `data import`, five million each, and its memory for 10M and 50M rows.

`pytest -m bench -s tests/bench/test_bench_import.py`; the memory alone with `-k memory`, 3 GB of disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.importing import ImportOptions, import_dataset
from recsys.data.readers.raw import ReaderOptions

ROWS = 5_000_000

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user": rng.integers(1, 200_001, ROWS),
            "item": rng.zipf(1.2, ROWS) % 100_000 + 1,
            "ts": np.sort(rng.integers(1_500_000_000, 1_600_000_000, ROWS)),
        }
    )


def write_pairs(log: pl.DataFrame, folder: Path) -> Path:
    log.select("user", "item").write_csv(folder / "pairs.txt", separator=" ", include_header=False)
    return folder / "pairs.txt"


def write_csv(log: pl.DataFrame, folder: Path) -> Path:
    log.write_csv(folder / "log.csv")
    return folder / "log.csv"


def write_parquet(log: pl.DataFrame, folder: Path) -> Path:
    log.write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def write_strings(log: pl.DataFrame, folder: Path) -> Path:
    return write_csv(
        log.with_columns(pl.format("u{}", "user").alias("user"), pl.format("i{}", "item").alias("item")), folder
    )


def write_dat(log: pl.DataFrame, folder: Path) -> Path:
    log.select(pl.format("{}::{}::5::{}", "user", "item", "ts")).write_csv(folder / "ratings.dat", include_header=False)
    return folder


@pytest.mark.parametrize(
    ("format_name", "prepare"),
    [
        ("pairs", write_pairs),
        ("table", write_csv),
        ("table", write_parquet),
        ("table", write_strings),
        ("movielens-dat", write_dat),
    ],
    ids=["pairs", "csv", "parquet", "csv with string ids", "movielens-dat"],
)
def test_import(
    log: pl.DataFrame, tmp_path: Path, format_name: str, prepare: Callable[[pl.DataFrame, Path], Path]
) -> None:
    path = prepare(log, tmp_path)
    columns = {"user_id": "user", "item_id": "item", "timestamp_ms": "ts"} if format_name == "table" else {}
    start, cpu = time.perf_counter(), time.process_time()
    imported = import_dataset(format_name, path, tmp_path / "out", ImportOptions(reader=ReaderOptions(columns=columns)))
    wall, busy = time.perf_counter() - start, time.process_time() - cpu
    assert imported.dataset.info.counts.events == ROWS
    print(f"\n{format_name} {path.name}: {ROWS / wall:,.0f} rows/s ({wall:.1f} s, {busy:.1f} s of CPU)")


@pytest.mark.parametrize("rows", [10_000_000, 50_000_000])
def test_memory_of_a_large_import(tmp_path: Path, rows: int) -> None:
    """Times in no order, so that every run of the sort has rows of every range."""
    rng, block = np.random.default_rng(0), 1_000_000
    with (tmp_path / "log.csv").open("wb") as file:
        file.write(b"user,item,ts\n")
        for _ in range(rows // block):
            columns = {"user": 1_000_000, "item": 200_000, "ts": 100_000_000}
            frame = pl.DataFrame({name: rng.integers(1, most, block) for name, most in columns.items()})
            frame.with_columns(pl.col("ts") + 1_500_000_000).write_csv(file, include_header=False)
    command = [sys.executable, "-m", "services.cli.main", "data", "import", "table", str(tmp_path / "log.csv")]
    command += ["--out", str(tmp_path / "out"), "--columns", "user_id=user,item_id=item,timestamp_ms=ts"]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    peak = usage.ru_maxrss / 2**20
    print(f"\n{rows:,} rows: {rows / (time.perf_counter() - start):,.0f} rows/s, at most {peak:.2f} GiB")
    assert peak < 3

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.external_sort import sorted_batches, spooled

SCHEMA = {"time": pl.Int64, "id": pl.Int64, "kind": pl.Enum(["a", "b"]), "value": pl.Float32}


def frame(times: list[int], order: list[int]) -> pl.DataFrame:
    """Rows with unique (time, id), in the given order, some without a value."""
    rows = [(times[n], n, "ab"[n % 2], None if n % 3 else n / 2) for n in order]
    return pl.DataFrame(rows, SCHEMA, orient="row")


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    times = draw(st.lists(st.integers(-3, 3) | st.integers(-(2**62), 2**62), min_size=1, max_size=80))
    return frame(times, draw(st.permutations(range(len(times)))))


@settings(max_examples=60, deadline=None)
@given(frames(), st.integers(1, 90))
def test_any_order_and_any_size_of_runs_sort_as_memory_does(rows: pl.DataFrame, rows_in_memory: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        batches = list(sorted_batches(rows.lazy(), ("time", "id"), Path(scratch), rows_in_memory))
    assert pl.concat(batches).equals(rows.sort("time", "id"))


def test_batches_are_about_as_large_as_memory_allows_even_when_all_times_are_the_same(tmp_path: Path) -> None:
    rows = frame([7] * 20_000, list(range(20_000))).sample(fraction=1.0, shuffle=True, seed=0)
    sizes = [batch.height for batch in sorted_batches(rows.lazy(), ("time", "id"), tmp_path, 2_000)]
    assert sum(sizes) == 20_000
    assert max(sizes) <= 2_000 + 10 * (2_000 // 256)  # one group more of each of ten runs


def test_rows_that_fit_into_memory_touch_no_disk(tmp_path: Path) -> None:
    rows = frame([3, 1, 2], [0, 1, 2])
    (batch,) = sorted_batches(rows.lazy(), ("time", "id"), tmp_path, 3)
    assert batch["time"].to_list() == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_no_row_is_no_batch(tmp_path: Path) -> None:
    assert sum(batch.height for batch in sorted_batches(frame([], []).lazy(), ("time", "id"), tmp_path, 3)) == 0


@pytest.mark.parametrize(("size", "files"), [(1, 5), (4, 2), (5, 0)])
def test_what_is_spooled_comes_back(tmp_path: Path, size: int, files: int) -> None:
    rows = frame([5, 4, 3, 2, 1], [0, 1, 2, 3, 4])
    assert spooled(rows.iter_slices(size), tmp_path).collect().equals(rows)
    assert len(list(tmp_path.iterdir())) == files

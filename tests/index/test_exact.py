"""Exact search: proposals hold the best k for certain, and memory stays within the stated block."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.index import exact
from recsys.index.exact import ExactSearch
from recsys.types import RaggedRows


def test_blocks_of_queries_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    search = ExactSearch(rng.standard_normal((500, 8), dtype=np.float32))
    queries = rng.standard_normal((40, 8), dtype=np.float32)
    excluded = RaggedRows.of([rng.integers(0, 500, 20) for _ in range(40)])
    allowed = rng.random(500) < 0.6
    at_once = search.propose(queries, 10, allowed, excluded)
    monkeypatch.setattr(exact, "SCORE_BLOCK_BYTES", 3 * 500 * 4)
    in_blocks = search.propose(queries, 10, allowed, excluded)
    assert [rows.tolist() for rows in in_blocks] == [rows.tolist() for rows in at_once]


@pytest.mark.parametrize("queries", [1, 7, 1000])
@pytest.mark.parametrize("rows", [10, 100_000, 1_000_000])
def test_a_block_of_scores_stays_within_its_bound(queries: int, rows: int) -> None:
    blocks = exact._blocks(queries, rows)
    assert all((stop - start) * rows * 4 <= exact.SCORE_BLOCK_BYTES for start, stop in blocks)
    assert [b for start, stop in blocks for b in range(start, stop)] == list(range(queries))


def test_a_narrow_filter_gathers_and_a_wide_one_masks_to_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    search = ExactSearch(rng.standard_normal((1000, 8), dtype=np.float32))
    queries = rng.standard_normal((5, 8), dtype=np.float32)
    excluded = RaggedRows.of([rng.integers(0, 1000, 300) for _ in range(5)])
    allowed = rng.random(1000) < 0.09
    gathered = search.propose(queries, 10, allowed, excluded)
    monkeypatch.setattr(exact, "_FEW", 0.0)
    masked = search.propose(queries, 10, allowed, excluded)
    assert [rows.tolist() for rows in gathered] == [rows.tolist() for rows in masked]


def test_rows_within_rounding_of_the_kth_are_proposed_too() -> None:
    vectors = np.ones((50, 64), np.float32)
    vectors[::2] *= np.float32(1 + 2**-22)
    rows = ExactSearch(vectors).propose(np.ones((1, 64), np.float32), 5, None, None)[0]
    assert rows.tolist() == list(range(50))


def test_thousands_of_ties_are_cut_to_the_first_rows_and_the_better_ones_stay() -> None:
    vectors = np.ones((20_000, 4), np.float32)
    vectors[19_990] = 2
    rows = ExactSearch(vectors).propose(np.ones((1, 4), np.float32), 3, None, None)[0]
    assert len(rows) == 4 * 3 + 1024
    assert rows[:3].tolist() == [0, 1, 2]
    assert rows[-1] == 19_990

"""Many tastes: kinds of items found by themselves, entropies by hand, leads where they were planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.columns import ITEM_ID
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.data.marketplace.presets import laws_of
from recsys.data.marketplace.simulate import simulate
from recsys.data.marketplace.truth import TRUTH, MarketplaceTruth
from recsys.data.splits import Holdout, split
from recsys.evaluate.categories import Categories
from recsys.evaluate.many_tastes import ManyTastes, many_tastes
from recsys.evaluate.metrics import MISSED, Ranks
from recsys.types import RaggedRows

ITEMS, KINDS, USERS, EVENTS = 200, 4, 400, 9
KIND = np.arange(ITEMS) % KINDS


def catalogue(**columns: object) -> Catalogue:
    kinds = [f"kind {kind}" for kind in KIND]
    return Catalogue(pl.DataFrame({ITEM_ID: np.arange(ITEMS), **(columns or {"kind": kinds})}))


@pytest.fixture
def events() -> EvaluationSet:
    """The first half of the users take one kind of items, the other half all kinds in turn."""
    rng = np.random.default_rng(0)
    kind = np.tile(np.arange(EVENTS), (USERS, 1)) % KINDS
    kind[: USERS // 2] = 1
    rows = (rng.integers(0, ITEMS // KINDS, (USERS, EVENTS)) * KINDS + kind).astype(np.int32)
    sequences = Interactions(np.arange(USERS), np.arange(USERS + 1) * EVENTS, rows.ravel(), np.arange(rows.size))
    ends = np.full(USERS, EVENTS - 1, np.int32)
    return EvaluationSet(sequences, np.arange(USERS, dtype=np.int32), ends, rows[:, -1])


def compared(events: EvaluationSet, several: Ranks, single: Ranks, dataset: Dataset, of: Catalogue) -> ManyTastes:
    return many_tastes(("several", "single"), {"several": several, "single": single}, events, of, dataset)


def test_entropy_counts_kinds_and_shares_an_item_of_two_among_both() -> None:
    lists = [[f"kind {kind}"] for kind in KIND]
    lists[0] = ["kind 0", "kind 1"]
    found = Categories.of(catalogue(title=["same"] * ITEMS, genres=lists))
    assert found is not None
    assert found.column == "genres"
    bits = found.entropy(RaggedRows.of([[4, 8, 12], [1, 2, 3, 4], [0], [4, 5, 5], []]))
    third = -(np.log2(1 / 3) + 2 * np.log2(2 / 3)) / 3
    assert bits == pytest.approx([0.0, 2.0, 1.0, third, 0.0])


def test_names_numbers_and_rare_values_are_no_kinds() -> None:
    every = [f"brand {row}" for row in range(ITEMS)]
    half = [f"kind {kind}" if row % 3 == 0 else None for row, kind in enumerate(KIND)]
    assert Categories.of(catalogue(title=["a", "b"] * (ITEMS // 2), year=KIND, brand=every, known=half)) is None
    found = Categories.of(catalogue(brand=every, first=[str(kind) for kind in KIND], second=["x", "y"] * 100))
    assert found is not None
    assert (found.column, found.names) == ("first", ["0", "1", "2", "3"])


def test_the_lead_lies_where_the_tastes_are_many(events: EvaluationSet, toy: Dataset) -> None:
    """Both find every item of users with one taste; of those with many, the single vector finds every other one."""
    several, single = np.ones(USERS, np.int32), np.ones(USERS, np.int32)
    single[USERS // 2 :: 2] = MISSED
    (whole,), buckets = (part.buckets for part in compared(events, several, single, toy, catalogue()).comparisons)
    assert whole.lead["recall@50"][0] == pytest.approx(0.25)
    assert [bucket.n for bucket in buckets] == [USERS // 2, USERS // 2]
    few, many = (bucket.lead["recall@50"] for bucket in buckets)
    assert few == (0.0, (0.0, 0.0))
    assert many[0] == 0.5
    assert 0.4 < many[1][0] < 0.5 < many[1][1] < 0.6


def test_without_kinds_the_report_says_why(events: EvaluationSet, toy: Dataset) -> None:
    ranks = np.ones(USERS, np.int32)
    found = compared(events, ranks, ranks, toy, catalogue(year=KIND))
    assert "no attribute" in found.comparisons[1].why_not
    assert found.as_json()["comparisons"][1]["buckets"] == []
    assert len(found.section().blocks) == 2


def test_simulated_users_are_divided_by_the_interests_they_truly_have(tmp_path: Path) -> None:
    market = simulate(tmp_path / "market", laws_of("small", users=150, items=120, days=6, events=30_000))
    of = Catalogue.from_dataset(market)
    events = split(market, of, Holdout.parse("time:0.1")).test
    assert events is not None
    ranks = np.ones(len(events), np.int32)
    found = compared(events, ranks, ranks, market, of)
    numbers = MarketplaceTruth.open(market.path).world.population.interests[events.user_ids - 1]
    divided = {bucket.label: bucket.n for bucket in found.comparisons[2].buckets}
    assert divided == {str(n): int((numbers == n).sum()) for n in np.unique(numbers) if (numbers == n).sum() >= 20}
    assert "category" in found.comparisons[1].by
    (market.path / TRUTH / "population.interests.npy").write_bytes(b"")
    assert "population.interests.npy" in compared(events, ranks, ranks, market, of).comparisons[2].why_not


def test_the_section_draws_both_channels_over_the_buckets(events: EvaluationSet, toy: Dataset) -> None:
    ranks = np.ones(USERS, np.int32)
    page = "".join(
        getattr(block, "markup", "") for block in compared(events, ranks, ranks, toy, catalogue()).section().blocks
    )
    assert page.count("<svg") == 2
    assert ">several<" in page
    assert f"n = {USERS // 2}" in page

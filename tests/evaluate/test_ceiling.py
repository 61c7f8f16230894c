"""The ceiling: what the truth of simulated data allows, beside what models reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle.bundle import open_bundle
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.interactions import EvaluationSet
from recsys.data.marketplace.presets import laws_of
from recsys.data.marketplace.simulate import simulate
from recsys.data.marketplace.truth import TRUTH, MarketplaceTruth
from recsys.data.splits import Holdout, split
from recsys.errors import DataError
from recsys.evaluate.ceiling import ceiling, has_truth
from recsys.evaluate.evaluation import EvaluationConfig
from recsys.evaluate.protocols import held_out_bundles
from recsys.evaluate.ranking import rank_score_blocks
from recsys.evaluate.report import REPORT_HTML, evaluate

ITEMS = 120


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    laws = laws_of("small", users=150, items=ITEMS, days=6, events=30_000)
    return simulate(tmp_path_factory.mktemp("market") / "data", laws)


@pytest.fixture(scope="module")
def test_events(market: Dataset) -> EvaluationSet:
    test = split(market, Catalogue.from_dataset(market), Holdout.parse("time:0.1")).test
    assert test is not None
    return test


def report_on(bundle: Path, dataset: Dataset, out: Path) -> dict[str, Any]:
    asked, folders = held_out_bundles(bundle)
    bundles = {protocol: open_bundle(folder) for protocol, folder in folders.items()}
    config = EvaluationConfig(latency_users=1, baselines=False)
    return evaluate(bundles, dataset, out, asked=asked, config=config)


def test_targets_know_when_they_were_chosen(test_events: EvaluationSet) -> None:
    sequences = test_events.sequences
    for m in (0, len(test_events) // 2, len(test_events) - 1):
        at = sequences.offsets[test_events.user[m]] + test_events.history_end[m]
        assert test_events.times_ms[m] == sequences.timestamps_ms[at]
        assert test_events.target[m] == sequences.rows[at]


def test_no_ranking_by_part_of_the_truth_is_better_than_by_all_of_it(
    market: Dataset, test_events: EvaluationSet
) -> None:
    truth = MarketplaceTruth.open(market.path)

    def hit_rate(exponent: float) -> float:
        def odds(start: int, users: Any) -> Any:
            part = slice(start, start + len(users))
            shown = truth.next_click(test_events.user_ids[part], test_events.times_ms[part])
            late = np.roll(shown, 1, axis=0)  # another user's odds, mixed in
            return (shown ** (1 - exponent) * late**exponent).astype(np.float32)

        return float((rank_score_blocks(odds, test_events, ITEMS).ranks <= 10).mean())

    best = float((ceiling(market, test_events, ITEMS).ranking.ranks <= 10).mean())
    assert best == hit_rate(0.0)
    assert best > hit_rate(0.5) > hit_rate(1.0)


def test_the_report_shows_the_ceiling_above_the_models(market: Dataset, write_bundle: Any, tmp_path: Path) -> None:
    report = report_on(write_bundle(market, "time:0.1"), market, tmp_path / "report")
    models = report["protocols"]["global_time"]["models"]
    assert max(models, key=lambda name: models[name]["ndcg@10"]) == "ceiling"
    assert models["ceiling"]["n"] == models["popularity"]["n"]
    page = (tmp_path / "report" / REPORT_HTML).read_text()
    assert "knows the truth" in page
    assert "true odds" in page


def test_the_ceiling_is_neither_yardstick_nor_leader(market: Dataset, write_bundle: Any, tmp_path: Path) -> None:
    report_on(write_bundle(market, "time:0.1"), market, tmp_path / "report")
    page = (tmp_path / "report" / REPORT_HTML).read_text()
    assert "among the first ten of ceiling" not in page
    assert "best yardstick, ceiling" not in page


def test_data_without_truth_have_no_ceiling(toy: Dataset, write_bundle: Any, tmp_path: Path) -> None:
    assert not has_truth(toy)
    report = report_on(write_bundle(toy, "last"), toy, tmp_path / "report")
    found = report["protocols"]["leave_one_out"]
    assert "ceiling" not in found["models"] | found["skipped"]


def test_a_truth_that_was_altered_is_named_in_the_report(tmp_path: Path, write_bundle: Any) -> None:
    dataset = simulate(tmp_path / "market", laws_of("small", users=60, items=50, days=3, events=5_000))
    (dataset.path / TRUTH / "items.quality.npy").write_bytes(b"")
    report = report_on(write_bundle(dataset, "time:0.1"), dataset, tmp_path / "report")
    found = report["protocols"]["global_time"]
    assert "ceiling" not in found["models"]
    assert "items.quality.npy" in found["skipped"]["ceiling"]


def test_what_would_take_hours_is_refused_with_a_size_that_would_not(
    market: Dataset, test_events: EvaluationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.evaluate.ceiling.MOST_PAIRS", 20 * ITEMS)
    with pytest.raises(DataError, match="--max-events 20 "):
        ceiling(market, test_events, ITEMS)


def test_the_truth_of_another_catalogue_is_refused(market: Dataset, test_events: EvaluationSet) -> None:
    with pytest.raises(DataError, match=r"of 120 items, the catalogue of 121"):
        ceiling(market, test_events, ITEMS + 1)

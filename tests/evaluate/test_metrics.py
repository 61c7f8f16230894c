"""Measures against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.evaluate.metrics import (
    EVENT_METRICS,
    MISSED,
    coverage,
    gini,
    hit_rate,
    mrr,
    ndcg,
    popularity_percentile,
    recall,
    recall_curve,
    share_of,
)

RANKS = np.array([1, 3, 10, 11, MISSED], np.int32)


def test_hit_rate_counts_the_tenth_place_and_not_the_eleventh() -> None:
    assert hit_rate(RANKS, 10).tolist() == [1, 1, 1, 0, 0]


def test_ndcg_of_one_relevant_item_is_the_inverse_log_of_its_place() -> None:
    expected = [1.0, 1 / math.log2(4), 1 / math.log2(11), 0.0, 0.0]
    assert ndcg(RANKS, 10) == pytest.approx(expected)


def test_recall_with_one_target_is_the_hit_rate() -> None:
    assert recall(RANKS, 50).mean() == pytest.approx(4 / 5)


def test_reciprocal_rank_ends_with_the_list() -> None:
    assert mrr(RANKS, depth=10) == pytest.approx([1.0, 1 / 3, 1 / 10, 0.0, 0.0])


def test_a_missed_target_adds_nothing_to_any_measure() -> None:
    missed = np.array([MISSED], np.int32)
    assert all(metric(missed)[0] == 0.0 for metric in EVENT_METRICS.values())


def test_the_names_are_those_of_the_report() -> None:
    assert list(EVENT_METRICS) == ["hr@10", "ndcg@10", "recall@50", "recall@100", "recall@500", "mrr"]


def test_recall_curve_is_the_recall_at_each_length() -> None:
    ks = np.array([1, 2, 3, 10, 500])
    assert recall_curve(RANKS, ks) == pytest.approx([recall(RANKS, int(k)).mean() for k in ks])


def test_coverage_is_the_share_of_eligible_items_shown_to_anyone() -> None:
    assert coverage(np.array([5, 0, 1, 0]), eligible=4) == 0.5


def test_gini_is_zero_when_all_items_are_shown_alike_and_grows_to_one() -> None:
    assert gini(np.array([3, 3, 3, 3])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(3 / 4)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)


def test_popularity_percentile_is_a_half_without_bias_and_shares_places_among_equals() -> None:
    popularity = np.array([10, 20, 30, 40])
    assert popularity_percentile(np.array([1, 1, 1, 1]), popularity) == pytest.approx(0.5)
    assert popularity_percentile(np.array([0, 0, 0, 1]), popularity) == pytest.approx(3.5 / 4)
    assert popularity_percentile(np.array([1, 0, 0, 0]), np.array([7, 7, 7, 7])) == pytest.approx(0.5)


def test_share_of_new_items_weighs_items_by_how_often_they_are_shown() -> None:
    assert share_of(np.array([3, 1, 0]), np.array([False, True, True])) == 0.25

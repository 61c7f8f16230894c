"""Reciprocal rank fusion, weighted and not, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.cascade.merge import ReciprocalRankFusion
from recsys.types import Candidates, offsets_of


def ranked(*lists: list[int]) -> Candidates:
    rows = np.array([row for part in lists for row in part], np.int32)
    return Candidates(
        rows, np.zeros(len(rows), np.float32), np.ones(len(rows), np.uint32), offsets_of([len(p) for p in lists])
    )


def named(*lists: Candidates) -> dict[str, Candidates]:
    return {f"channel_{i}": one for i, one in enumerate(lists)}


def test_a_row_of_both_lists_beats_the_first_of_either() -> None:
    merged = ReciprocalRankFusion(60).merge(named(ranked([7, 3, 5]), ranked([9, 5])), 10)
    assert merged.rows.tolist() == [5, 7, 9, 3]
    assert merged.scores.tolist() == pytest.approx([1 / 63 + 1 / 62, 1 / 61, 1 / 61, 1 / 62])
    assert merged.channels.tolist() == [0b11, 0b01, 0b10, 0b01]


def test_equal_sums_keep_the_order_of_the_lists() -> None:
    merged = ReciprocalRankFusion().merge(named(ranked([9, 8]), ranked([2, 1])), 10)
    assert merged.rows.tolist() == [9, 2, 8, 1]


def test_users_do_not_mix_and_each_keeps_its_best_k() -> None:
    merged = ReciprocalRankFusion().merge(named(ranked([1, 2, 3], [], [4]), ranked([3], [], [1, 4])), 2)
    assert [merged.of(b)[0].tolist() for b in range(3)] == [[3, 1], [], [4, 1]]
    assert merged.counts.tolist() == [2, 0, 2]


def test_a_small_constant_favours_the_top_of_one_list() -> None:
    lists = named(ranked([1, 2, 3]), ranked([4, 3, 2]))
    assert ReciprocalRankFusion(60).merge(lists, 1).rows.tolist() == [2]
    assert ReciprocalRankFusion(0).merge(lists, 1).rows.tolist() == [1]


def test_empty_lists_merge_to_nothing() -> None:
    merged = ReciprocalRankFusion().merge(named(ranked([], []), ranked([], [])), 5)
    assert len(merged) == 2
    assert not len(merged.rows)


def test_an_empty_list_changes_no_order() -> None:
    merged = ReciprocalRankFusion().merge(named(ranked([], [6]), ranked([5, 4, 9], [])), 5)
    assert [merged.of(b)[0].tolist() for b in range(2)] == [[5, 4, 9], [6]]
    assert merged.channels.tolist() == [2, 2, 2, 1]


def test_the_largest_rows_and_the_last_channel_survive() -> None:
    largest = 2**31 - 1
    merged = ReciprocalRankFusion().merge(named(*[ranked([])] * 31, ranked([largest, 0])), 5)
    assert merged.rows.tolist() == [largest, 0]
    assert merged.channels.tolist() == [1 << 31, 1 << 31]


def test_a_weight_multiplies_what_a_list_gives() -> None:
    lists = {"model": ranked([7, 3, 5]), "popularity": ranked([9, 5])}
    merged = ReciprocalRankFusion(60, {"popularity": 0.5}).merge(lists, 10)
    assert merged.rows.tolist() == [5, 7, 3, 9]
    assert merged.scores.tolist() == pytest.approx([1 / 63 + 0.5 / 62, 1 / 61, 1 / 62, 0.5 / 61])


def test_a_light_list_fills_up_what_the_heavy_one_leaves_and_serves_alone_who_is_in_no_other() -> None:
    lists = {"model": ranked([7, 3, 5], []), "popularity": ranked([9, 5, 8], [9, 5, 8])}
    merged = ReciprocalRankFusion(60, {"popularity": 0.01}).merge(lists, 5)
    assert [merged.of(b)[0].tolist() for b in range(2)] == [[7, 3, 5, 9, 8], [9, 5, 8]]
    assert (merged.scores > 0).all()

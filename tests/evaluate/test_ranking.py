"""Ranks worked out by hand: ties, exclusions, eligibility, the end of the list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.splits import Split
from recsys.evaluate.metrics import DEPTH, MISSED
from recsys.evaluate.ranking import Ranking, rank_lists, rank_scores, rank_yardstick, ranks_in_lists
from recsys.retrieval.static_channel import StaticChannel
from recsys.types import Candidates, Floats, RaggedRows, RowMask, Users, offsets_of

ITEMS = 8


class SameForAll:
    """Scores that do not depend on the history."""

    def __init__(self, scores: Floats) -> None:
        self.row_scores = scores

    def scores(self, histories: RaggedRows) -> Floats:
        return np.broadcast_to(self.row_scores, (len(histories), len(self.row_scores)))


def counts(split: Split) -> Floats:
    return np.bincount(split.train.rows, minlength=ITEMS).astype(np.float32)


def by_popularity(split: Split) -> Ranking:
    assert split.test is not None
    return rank_scores(SameForAll(counts(split)), split.test, ITEMS)


def lists(*rows_and_scores: tuple[list[int], list[float]]) -> Candidates:
    rows = np.concatenate([np.array(r, np.int32) for r, _ in rows_and_scores])
    scores = np.concatenate([np.array(s, np.float32) for _, s in rows_and_scores])
    return Candidates(rows, scores, np.ones(len(rows), np.uint32), offsets_of([len(r) for r, _ in rows_and_scores]))


def test_the_rank_is_the_place_in_the_list() -> None:
    found = ranks_in_lists(lists(([5, 2, 7], [3.0, 2.0, 1.0]), ([1], [0.5])), np.array([2, 1], np.int32))
    assert found.tolist() == [2, 1]


def test_among_equal_scores_the_target_takes_the_worst_place() -> None:
    tied = lists(([4, 5, 6, 7], [2.0, 1.0, 1.0, 1.0]))
    assert [int(ranks_in_lists(tied, np.array([t], np.int32))[0]) for t in (4, 5, 6, 7)] == [1, 4, 4, 4]


def test_where_only_the_order_counts_the_rank_is_the_place_whatever_the_scores() -> None:
    merged = lists(([4, 5, 6], [1.0, 1.0, 1.0]), ([6, 5], [1.0, 1.0]))
    assert ranks_in_lists(merged, np.array([5, 6], np.int32), by_order=True).tolist() == [2, 1]


def test_a_target_that_is_not_in_the_list_is_missed() -> None:
    found = ranks_in_lists(lists(([1, 2], [1.0, 1.0]), ([], [])), np.array([3, 3], np.int32))
    assert found.tolist() == [MISSED, MISSED]


def test_leave_one_out_popularity_on_the_toy_set(last: Split) -> None:
    """Counts of the training part: 10: 3, 20: 2, 30: 2, 40: 2, 50: 1, 60: 1, 70: 1, 80: 0.

    User 1 has 10 20 30, 40 is the most popular of the rest. User 2 has 10 20: 30 ties with 40. User 3 has
    20 30 40 50: 10 is above 60, which ties with 70. User 6 has 30 40 50 60: 10 and 20 are above 70.
    """
    assert by_popularity(last).ranks.tolist() == [1, 2, 3, 3]


def test_a_yardstick_that_answers_with_lists_has_the_ranks_of_its_scores(last: Split) -> None:
    assert last.test is not None
    found, scored = rank_yardstick(StaticChannel("static", counts(last)), last.test, ITEMS), by_popularity(last)
    assert found.ranks.tolist() == scored.ranks.tolist()
    assert found.recommended.tolist() == scored.recommended.tolist()


def test_popularity_recommends_every_unseen_item_of_so_small_a_catalogue(last: Split) -> None:
    assert by_popularity(last).recommended.tolist() == [2, 1, 1, 2, 2, 3, 4, 4]


def test_small_blocks_of_scores_give_the_ranks_of_large_ones(last: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.evaluate.ranking.SCORE_CELLS", ITEMS)
    assert by_popularity(last).ranks.tolist() == [1, 2, 3, 3]


def test_items_that_are_not_eligible_stand_before_nobody(last: Split) -> None:
    assert last.test is not None
    without_ten = RowMask(np.array([False, *[True] * 7]))
    events = replace(last.test, eligible=without_ten)
    found = rank_scores(SameForAll(counts(last)), events, ITEMS)
    assert found.ranks.tolist() == [1, 2, 2, 2]
    assert found.recommended[0] == 0


def test_a_model_that_knows_nothing_ranks_the_target_last(last: Split) -> None:
    assert last.test is not None
    found = rank_scores(SameForAll(np.zeros(ITEMS, np.float32)), last.test, ITEMS)
    assert found.ranks.tolist() == [5, 6, 4, 4]


def test_a_tie_across_the_end_of_the_list_is_a_miss(last: Split) -> None:
    """The list is one longer than what counts, so a target at its end that ties with the next is seen to tie."""
    assert last.test is not None
    items = DEPTH + 50
    target = int(last.test.target[0])

    def recall(users: Users, k: int) -> Candidates:
        others = np.delete(np.arange(items), target)[: k - 1]
        rows = np.insert(others, DEPTH - 1, target)
        scores = np.linspace(2.0, 1.0, k, dtype=np.float32)
        scores[DEPTH:] = scores[DEPTH - 1]
        return Candidates.from_matrix(np.tile(rows, (len(users), 1)), np.tile(scores, (len(users), 1)))

    assert rank_lists(recall, last.test, items).ranks[0] == MISSED
    assert rank_lists(recall, last.test, items, by_order=True).ranks[0] == DEPTH

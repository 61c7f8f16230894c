"""The merge beside what goes into it: round-robin by hand, gains by hand, and what the report says of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.cascade.cascade import Cascade, CascadeConfig
from recsys.cascade.merge import RankCurves
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.errors import BundleError
from recsys.evaluate.merge_study import BEST, MEASURES, MERGED, ROUND_ROBIN, SHORT, MergeStudy, merge_study, round_robin
from recsys.evaluate.results import Quiet
from recsys.types import Candidates, Deadline, RowMask, Users, offsets_of

USERS, ITEMS = 100, 40


def ranked(*lists: list[int]) -> Candidates:
    rows = np.array([row for part in lists for row in part], np.int32)
    return Candidates(
        rows, np.zeros(len(rows), np.float32), np.ones(len(rows), np.uint32), offsets_of([len(p) for p in lists])
    )


def test_lists_give_one_row_in_turn_and_what_was_given_is_left_out() -> None:
    merged = round_robin([ranked([1, 2, 3], [7]), ranked([4, 1, 5, 6], [])], 5)
    assert [merged.of(b)[0].tolist() for b in range(2)] == [[1, 4, 2, 3, 5], [7]]
    assert merged.channels.tolist() == [3, 2, 1, 1, 2, 1]
    assert merged.of(0)[1].tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


LISTS = st.lists(st.lists(st.lists(st.integers(0, 20), unique=True, max_size=12), min_size=2, max_size=2), min_size=1)


@settings(deadline=None)
@given(LISTS, st.integers(1, 30))
def test_any_lists_in_turn_give_every_row_once_by_its_first_place(lists: list[list[list[int]]], k: int) -> None:
    merged = round_robin([ranked(*one) for one in lists], k)
    for user in range(2):
        of = [one[user] for one in lists]
        rows = merged.of(user)[0].tolist()
        first = {row: min((one.index(row), c) for c, one in enumerate(of) if row in one) for one in of for row in one}
        assert rows == sorted(first, key=lambda row: first[row])[:k]


class At:
    """Puts the target of every user at the place that it is given (from 1), rows that nobody wants elsewhere."""

    def __init__(self, name: str, events: EvaluationSet, places: list[int], fails: bool = False) -> None:
        self.name, self.events, self.places, self.fails = name, events, places, fails

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        if self.fails:
            raise ValueError("no such luck")
        lists = []
        for user in users.ids:
            place, target = self.places[user], int(self.events.target[user])
            others = [row for row in range(ITEMS) if row != target]
            lists.append([*others[: place - 1], target, *others[place - 1 :]][:k])
        return ranked(*lists)


@pytest.fixture
def events() -> EvaluationSet:
    """One event a user: user u chose row 0, then row 20 + u mod 20."""
    targets = (20 + np.arange(USERS) % 20).astype(np.int32)
    rows = np.column_stack((np.zeros(USERS), targets)).astype(np.int32).ravel()
    sequences = Interactions(np.arange(USERS), offsets_of([2] * USERS), rows, np.zeros(len(rows), np.int64))
    return EvaluationSet(sequences, np.arange(USERS, dtype=np.int32), np.ones(USERS, np.int32), targets)


def studied(events: EvaluationSet, curves: RankCurves | None) -> MergeStudy:
    halves = [[1] * 50 + [30] * 50, [20] * 50 + [2] * 50]
    channels = [At(name, events, places) for name, places in zip(("first", "second"), halves, strict=True)]
    study = merge_study(Cascade(channels, config=CascadeConfig(merge=curves)), events, None, Quiet())
    assert study is not None
    return study


def test_means_and_gains_are_those_worked_out_by_hand(events: EvaluationSet) -> None:
    only_first = RankCurves(places=(1, 501), log_odds={"first": (9, 0), "second": (0, 0)})
    study = studied(events, only_first)
    assert list(study.lists) == ["first", "second", ROUND_ROBIN, SHORT, MERGED]
    assert study.lists["first"]["ndcg@10"].value == pytest.approx(0.5)
    assert study.lists["second"]["ndcg@10"].value == pytest.approx(0.5 / np.log2(3))
    assert study.lists[ROUND_ROBIN]["recall@10"].value == 1
    assert study.lists[MERGED]["recall@10"].value == 0.5
    assert study.best["ndcg@10"] == "first"
    assert study.gains[BEST]["recall@10"].value == 0
    assert study.gains[ROUND_ROBIN]["recall@10"].value == -0.5
    low, high = study.gains[ROUND_ROBIN]["recall@10"].interval
    assert -0.65 < low < -0.5 < high < -0.35
    assert study.gains[ROUND_ROBIN]["recall@500"].value == 0


def test_the_report_has_the_figures_and_the_rule(events: EvaluationSet) -> None:
    curves = RankCurves(places=(1, 501), log_odds={"first": (9, 0), "second": (0, 0)}, leader="first", lead=10)
    study = studied(events, curves)
    entry = study.as_json()
    assert entry["events"] == USERS
    assert set(entry["lists"]) == {"first", "second", ROUND_ROBIN, SHORT, MERGED}
    assert set(entry["merged_less"][BEST]) == set(MEASURES)
    assert entry["merged_less"][ROUND_ROBIN]["recall@10"][0] == -0.5
    page = "".join(getattr(block, "markup", getattr(block, "svg", "")) for block in study.section().blocks)
    assert "The first 10 rows are those of first" in page
    assert "−0.5000" in page
    assert len(studied(events, None).section().blocks) == 1


def test_a_short_answer_is_merged_from_short_lists(events: EvaluationSet) -> None:
    """Of 20 rows that stand in both lists before places 9 and 40, lists of 10 share nine."""
    curves = RankCurves(places=(1, 501), log_odds={"first": (6, 0), "second": (6, 0)})
    channels = [At("first", events, [9] * USERS), At("second", events, [40] * USERS)]
    study = merge_study(Cascade(channels, config=CascadeConfig(merge=curves)), events, None, Quiet())
    assert study is not None
    assert study.lists[MERGED]["recall@10"].value == 0
    assert study.lists[SHORT]["recall@10"].value == 1
    assert study.lists[SHORT]["recall@500"].value == study.lists[MERGED]["recall@500"].value == 1


def test_one_channel_has_nothing_to_merge_and_a_failing_one_is_named(events: EvaluationSet) -> None:
    places = [1] * USERS
    assert merge_study(Cascade([At("only", events, places)]), events, None, Quiet()) is None
    broken = Cascade([At("well", events, places), At("broken", events, places, fails=True)])
    with pytest.raises(BundleError, match="broken failed"):
        merge_study(broken, events, None, Quiet())

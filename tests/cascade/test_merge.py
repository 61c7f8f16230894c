"""Fusion by rank, with curves and without: sums by hand, leads, and what must hold for any lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.cascade.cascade import CascadeConfig
from recsys.cascade.merge import RankCurves, RankFusion
from recsys.config import parse_config
from recsys.errors import ConfigError
from recsys.types import Candidates, offsets_of

PLACES = (1, 10, 100)
CURVES = RankCurves(places=PLACES, log_odds={"model": (4, 2, 0), "knn": (3, 1, 0), "silent": (0, 0, 0)})


def ranked(*lists: list[int]) -> Candidates:
    rows = np.array([row for part in lists for row in part], np.int32)
    return Candidates(
        rows, np.zeros(len(rows), np.float32), np.ones(len(rows), np.uint32), offsets_of([len(p) for p in lists])
    )


def named(*lists: Candidates) -> dict[str, Candidates]:
    return {f"channel_{i}": one for i, one in enumerate(lists)}


def test_without_curves_a_row_of_both_lists_beats_the_first_of_either() -> None:
    merged = RankFusion().merge(named(ranked([7, 3, 5]), ranked([9, 5])), 10)
    assert merged.rows.tolist() == [5, 7, 9, 3]
    assert merged.scores.tolist() == pytest.approx([1 / 63 + 1 / 62, 1 / 61, 1 / 61, 1 / 62])
    assert merged.channels.tolist() == [0b11, 0b01, 0b10, 0b01]


def test_equal_sums_keep_the_order_of_the_lists() -> None:
    merged = RankFusion().merge(named(ranked([9, 8]), ranked([2, 1])), 10)
    assert merged.rows.tolist() == [9, 2, 8, 1]


def test_users_do_not_mix_and_each_keeps_its_best_k() -> None:
    merged = RankFusion().merge(named(ranked([1, 2, 3], [], [4]), ranked([3], [], [1, 4])), 2)
    assert [merged.of(b)[0].tolist() for b in range(3)] == [[3, 1], [], [4, 1]]
    assert merged.counts.tolist() == [2, 0, 2]


def test_empty_lists_merge_to_nothing() -> None:
    merged = RankFusion().merge(named(ranked([], []), ranked([], [])), 5)
    assert len(merged) == 2
    assert not len(merged.rows)


def test_an_empty_list_changes_no_order() -> None:
    merged = RankFusion().merge(named(ranked([], [6]), ranked([5, 4, 9], [])), 5)
    assert [merged.of(b)[0].tolist() for b in range(2)] == [[5, 4, 9], [6]]
    assert merged.channels.tolist() == [2, 2, 2, 1]


def test_the_largest_rows_and_the_last_channel_survive() -> None:
    largest = 2**31 - 1
    merged = RankFusion().merge(named(*[ranked([])] * 31, ranked([largest, 0])), 5)
    assert merged.rows.tolist() == [largest, 0]
    assert merged.channels.tolist() == [1 << 31, 1 << 31]


def test_log_odds_of_the_places_add_up_and_lie_on_a_line_in_the_logarithm() -> None:
    third = [*range(20, 30), 5]  # row 5 at place 11
    merged = RankFusion(CURVES).merge({"model": ranked([7, 5]), "knn": ranked(third)}, 20)
    found = dict(zip(merged.rows.tolist(), merged.scores.tolist(), strict=True))
    assert found[7] == pytest.approx(4, abs=2e-4)
    assert found[20] == pytest.approx(3, abs=2e-4)
    assert found[5] == pytest.approx(4 - 2 * np.log10(2) + 1 - np.log10(1.1), abs=4e-4)
    assert merged.rows.tolist()[:3] == [5, 7, 20]


def test_a_silent_list_only_fills_up_in_its_own_order_and_serves_alone_who_is_in_no_other() -> None:
    lists = {"silent": ranked([9, 5, 8], [9, 5, 8]), "model": ranked([7, 3, 5], [])}
    merged = RankFusion(CURVES).merge(lists, 5)
    assert [merged.of(b)[0].tolist() for b in range(2)] == [[7, 3, 5, 9, 8], [9, 5, 8]]
    assert (merged.scores > 0).all()


def test_a_lead_is_the_leader_s_own_and_the_rest_is_merged() -> None:
    lists = {"model": ranked([1, 2, 3, 4]), "knn": ranked([4, 3, 2])}
    assert RankFusion(CURVES).merge(lists, 4).rows.tolist() == [4, 2, 3, 1]
    led = RankFusion(CURVES.model_copy(update={"leader": "model", "lead": 2})).merge(lists, 4)
    assert led.rows.tolist() == [1, 2, 4, 3]
    assert led.channels.tolist() == [0b01, 0b11, 0b11, 0b11]


def test_longer_lists_than_any_before_and_than_the_curves_keep_their_order() -> None:
    fusion = RankFusion(CURVES)
    rows = np.random.default_rng(0).permutation(3_000).tolist()
    for length in (5, 3_000, 600):
        merged = fusion.merge({"knn": ranked([]), "model": ranked(rows[:length])}, length)
        assert merged.rows.tolist() == rows[:length]


LISTS = st.lists(st.lists(st.integers(0, 40), unique=True, max_size=30), min_size=2, max_size=4)


@settings(deadline=None)
@given(LISTS, st.integers(1, 60), st.booleans(), st.integers(0, 40))
def test_any_lists_merge_to_the_k_best_sums_each_row_once(
    lists: list[list[int]], k: int, learned: bool, lead: int
) -> None:
    names = ["silent", "model", "knn", "unknown"][: len(lists)]
    curves = CURVES.model_copy(update={"leader": "model", "lead": lead}) if learned else None
    fusion = RankFusion(curves)
    merged = fusion.merge({name: ranked(one) for name, one in zip(names, lists, strict=True)}, k)
    rows = merged.rows.tolist()
    union = {row for one in lists for row in one}
    assert len(rows) == len(set(rows)) == min(k, len(union))
    assert merged.channels.tolist() == [sum(1 << i for i, one in enumerate(lists) if row in one) for row in rows]
    assert (np.diff(merged.scores) <= 0).all()
    if learned:
        assert rows[: min(lead, k)] == (lists[1][:lead] + [r for r in rows if r not in lists[1][:lead]])[: min(lead, k)]
    alone = [fusion.merge({name: ranked(one)}, 100) for name, one in zip(names, lists, strict=True)]
    said = [dict(zip(one.rows.tolist(), one.scores.tolist(), strict=True)) for one in alone]
    sums = {row: sum(of.get(row, 0.0) for of in said) for row in union}
    assert merged.scores.tolist() == pytest.approx([sums[row] for row in rows], rel=1e-5)
    assert merged.scores.tolist() == pytest.approx(sorted(sums.values(), reverse=True)[:k], rel=1e-5)


def test_curves_survive_the_way_through_json() -> None:
    config = CascadeConfig(merge=CURVES.model_copy(update={"leader": "knn", "lead": 10}))
    assert CascadeConfig.model_validate_json(config.model_dump_json()) == config
    assert CascadeConfig.model_validate_json(CascadeConfig().model_dump_json()).merge is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"places": [1, 5, 5]}, "must ascend from 1"),
        ({"places": [2, 5, 9]}, "must ascend from 1"),
        ({"log_odds": {"model": [2, 1]}}, "'model' has 2 log-odds for 3 places"),
        ({"log_odds": {"model": [2, 1, 1.5]}}, "of channel 'model' rise with the place"),
        ({"log_odds": {"model": [2, 1, -1]}}, "merge.log_odds.model.2 = -1: .*greater than or equal to 0"),
        ({"log_odds": {"model": [float("nan"), 1, 0]}}, "finite number"),
        ({"log_odds": {}}, "at least 1"),
        ({"lead": 5}, "leader None is no channel of the rule: model"),
        ({"version": 2}, "merge.version = 2"),
        ({"weights": {"model": 1}}, "there is no setting 'merge.weights'"),
    ],
)
def test_what_is_no_rule_is_refused_by_name(changed: dict[str, Any], message: str) -> None:
    rule = {"places": [1, 10, 100], "log_odds": {"model": [4, 2, 0]}}
    with pytest.raises(ConfigError, match=message):
        parse_config(CascadeConfig, {"merge": {**rule, **changed}}, "manifest.json")

"""The rule of the merge: who knows more says more, and nobody spoils the best; on channels with a planted quality."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.cascade.merge import RankFusion
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.evaluate.merge_choice import MergeChoice, choose_merge
from recsys.evaluate.metrics import DEPTH
from recsys.evaluate.rank_curves import PLACES, RankedEvents, fit_curves
from recsys.evaluate.ranking import ranks_in_lists
from recsys.types import Candidates, Deadline, RowMask, Users, offsets_of

USERS, ITEMS, LENGTH = 600, 400, 100


@pytest.fixture
def events() -> EvaluationSet:
    """One event a user: user u chose row u mod ITEMS, then one at random."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, ITEMS, USERS).astype(np.int32)
    rows = np.column_stack((np.arange(USERS) % ITEMS, targets)).astype(np.int32).ravel()
    sequences = Interactions(np.arange(USERS), offsets_of([2] * USERS), rows, np.zeros(len(rows), np.int64))
    return EvaluationSet(sequences, np.arange(USERS, dtype=np.int32), np.ones(USERS, np.int32), targets)


class Placing:
    """Puts each user's target at a planted place (from 1, 0 = nowhere) of a list that is random otherwise."""

    def __init__(self, name: str, events: EvaluationSet, places: NDArray[np.int64], seed: int) -> None:
        self.name, self.lists = name, []
        rng = np.random.default_rng(seed)
        for target, place in zip(events.target, places, strict=True):
            others = rng.permutation(np.delete(np.arange(ITEMS), target)).astype(np.int32)
            self.lists.append(np.insert(others, place - 1, target)[:LENGTH] if place else others[:LENGTH])

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        rows = np.concatenate([self.lists[user][:k] for user in users.ids])
        ones = np.ones(len(rows), np.float32)
        return Candidates(rows, ones, ones.astype(np.uint32), offsets_of([min(k, LENGTH)] * len(users)))


def near_the_top(share: float, seed: int) -> NDArray[np.int64]:
    """Places ~ log-uniform in 1…60 for a share of the users drawn at random, 0 for the others."""
    rng = np.random.default_rng(seed)
    places = np.exp(rng.uniform(0, np.log(60), USERS)).astype(np.int64)
    return np.where(rng.random(USERS) < share, places, 0)


def chosen(events: EvaluationSet, *channels: Placing) -> MergeChoice:
    return choose_merge({channel.name: channel for channel in channels}, events)


def test_a_channel_that_finds_nothing_says_nothing_and_takes_nothing_away(events: EvaluationSet) -> None:
    good, noise = Placing("good", events, near_the_top(0.8, 1), 2), Placing("noise", events, np.zeros(USERS, int), 3)
    choice = chosen(events, noise, good)
    assert choice.curves is not None
    assert choice.curves.log_odds["noise"][0] < 0.1 < 3 < choice.curves.log_odds["good"][0]
    for measure in ("ndcg@10", "recall@10", "recall@50", "recall@100"):
        assert choice.metrics[measure] == pytest.approx(choice.metrics[f"good.{measure}"], abs=0.005)


def test_a_channel_that_adds_nothing_leaves_the_list_of_the_better_one(events: EvaluationSet) -> None:
    good, noise = Placing("good", events, near_the_top(0.8, 1), 2), Placing("noise", events, np.zeros(USERS, int), 3)
    choice = chosen(events, noise, good)
    users = events.users(0, USERS)
    merged = RankFusion(choice.curves).merge({c.name: c.recall(users, LENGTH) for c in (noise, good)}, LENGTH)
    kept = [np.isin(merged.of(b)[0][:50], good.lists[b][:55]).mean() for b in range(USERS)]
    assert np.mean(kept) > 0.97


def test_channels_that_each_find_half_of_the_targets_beat_both_together(events: EvaluationSet) -> None:
    places, half = near_the_top(1.0, 1), np.random.default_rng(9).random(USERS) < 0.5
    first, second = (
        Placing(name, events, np.where(side, places, 0), seed) for name, side, seed in (("a", half, 2), ("b", ~half, 3))
    )
    choice = chosen(events, first, second)
    assert choice.curves is not None
    for name in ("a", "b"):
        assert choice.metrics["recall@100"] > choice.metrics[f"{name}.recall@100"] + 0.3
        assert choice.metrics["ndcg@10"] > choice.metrics[f"{name}.ndcg@10"]
    assert choice.curves.lead == 0


def test_curves_never_rise_and_end_at_nothing(events: EvaluationSet) -> None:
    """Whatever was observed: here more targets at place 50 than at any place before."""
    places = np.where(np.arange(USERS) % 2, 50, near_the_top(1.0, 1))
    choice = chosen(events, Placing("odd", events, places, 2), Placing("even", events, near_the_top(0.5, 3), 4))
    assert choice.curves is not None
    assert choice.curves.places == PLACES
    for values in choice.curves.log_odds.values():
        assert all(low >= high for low, high in pairwise(values))
        assert values[-1] == 0


def test_curves_are_the_log_odds_that_the_choices_were_drawn_from() -> None:
    """Choices drawn ∝ exp(f(place)) from a list of 200, f linear in the logarithm: f is found, a second list is not."""
    rng = np.random.default_rng(0)
    truth = np.interp(np.log(np.arange(1, 201)), np.log(PLACES), np.linspace(5, 0, len(PLACES)))
    places = rng.choice(200, 4_000, p=np.exp(truth) / np.exp(truth).sum())
    rows = np.stack([rng.permutation(200) for _ in places]).astype(np.int32)
    other = np.stack([rng.permutation(200) for _ in places]).astype(np.int32)
    lists = [Candidates.from_matrix(matrix, np.ones(matrix.shape, np.float32)) for matrix in (rows, other)]
    values = fit_curves(RankedEvents.of(lists, rows[np.arange(len(places)), places]))
    known = np.arange(8)  # of places up to 128
    np.testing.assert_allclose(
        values[0][known] - values[0][7], np.linspace(5, 0, len(PLACES))[known] - truth[127], atol=0.3
    )
    assert values[1][0] < 0.15


def test_what_two_channels_both_know_counts_once(events: EvaluationSet) -> None:
    """The same list twice: together they say what one says alone."""
    good = Placing("good", events, near_the_top(0.9, 1), 2)
    lists = good.recall(events.users(0, USERS), LENGTH)
    alone = fit_curves(RankedEvents.of([lists], events.target))[0]
    twice = fit_curves(RankedEvents.of([lists, lists], events.target))
    np.testing.assert_allclose(twice.sum(axis=0)[:-1], alone[:-1], rtol=0.15)  # the prior weighs less, shared by two


def test_the_rule_that_judges_a_user_was_fitted_on_others(
    events: EvaluationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []

    def counting(events: RankedEvents) -> NDArray[np.float64]:
        fitted.append(len(events))
        return fit_curves(events)

    monkeypatch.setattr("recsys.evaluate.merge_choice.fit_curves", counting)
    places = near_the_top(0.8, 1)
    chosen(events, Placing("a", events, places, 2), Placing("b", events, near_the_top(0.5, 4), 3))
    assert len(fitted) == 3
    assert fitted[0] + fitted[1] == fitted[2] < USERS


def test_nobody_to_judge_on_leaves_no_rule(events: EvaluationSet) -> None:
    one = EvaluationSet(events.sequences, events.user[:1], events.history_end[:1], events.target[:1])
    places = np.ones(USERS, int)
    choice = chosen(one, Placing("a", events, places, 1), Placing("b", events, places, 2))
    assert choice.curves is None
    assert choice.metrics["a.recall@10"] == 1


def test_events_whose_target_no_channel_finds_teach_nothing(events: EvaluationSet) -> None:
    nowhere = np.zeros(USERS, int)
    choice = chosen(events, Placing("a", events, nowhere, 1), Placing("b", events, nowhere, 2))
    assert choice.curves is not None
    assert choice.curves.log_odds == {"a": (0.0,) * len(PLACES), "b": (0.0,) * len(PLACES)}
    lists = Placing("c", events, near_the_top(1.0, 1), 3).recall(events.users(0, USERS), DEPTH)
    assert (ranks_in_lists(lists, events.target, by_order=True) <= LENGTH).all()

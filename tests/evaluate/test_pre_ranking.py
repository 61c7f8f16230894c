"""Whether pre-ranking helps: scorers whose quality is planted, over channels that are right for half of the users."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.cascade.cascade import Cascade, CascadeConfig
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.evaluate.cascade_choice import choose_cascade
from recsys.evaluate.funnel import trace
from recsys.evaluate.pre_ranking import judge_pre_ranking
from recsys.evaluate.views import funnel_section
from recsys.ranking.scorer import Stage
from recsys.types import Candidates, Deadline, RowMask, Scores, Users, offsets_of

USERS, ITEMS, LENGTH = 200, 80, 30


@pytest.fixture
def events() -> EvaluationSet:
    """One event a user: user u chose row u mod ITEMS, then one at random."""
    targets = np.random.default_rng(0).integers(0, ITEMS, USERS).astype(np.int32)
    rows = np.column_stack((np.arange(USERS) % ITEMS, targets)).astype(np.int32).ravel()
    sequences = Interactions(np.arange(USERS), offsets_of([2] * USERS), rows, np.zeros(len(rows), np.int64))
    return EvaluationSet(sequences, np.arange(USERS, dtype=np.int32), np.ones(USERS, np.int32), targets)


class FirstForHalf:
    """Puts the targets of the users of one parity first, and those of the others eleventh."""

    def __init__(self, name: str, events: EvaluationSet, parity: int) -> None:
        self.name, self.events, self.parity = name, events, parity

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        lists = []
        for user, target in zip(users.ids, self.events.target[users.ids], strict=True):
            others = np.setdiff1d(np.arange(self.parity, ITEMS, 2), target)[: LENGTH - 1]
            lists.append(np.insert(others, 0 if user % 2 == self.parity else 10, target))
        rows = np.concatenate(lists).astype(np.int32)
        ones = np.ones(len(rows), np.float32)
        return Candidates(rows, ones, ones.astype(np.uint32), offsets_of([LENGTH] * len(users)))


class Knowing:
    """A pre-ranker that puts the targets of a share of the users first, and those of all others last."""

    name, stage = "knowing", Stage.PRE_RANK

    def __init__(self, events: EvaluationSet, share: float) -> None:
        self.events, self.share = events, share

    def score(self, users: Users, candidates: Candidates) -> Scores:
        user = np.repeat(users.ids, candidates.counts)
        wanted = candidates.rows == self.events.target[user]
        return Scores(np.where(user < self.share * USERS, wanted, ~wanted).astype(np.float32))


def test_a_worse_scorer_than_the_merge_is_left_out(events: EvaluationSet) -> None:
    channels = [FirstForHalf("even", events, 0), FirstForHalf("odd", events, 1)]  # merged: every target first
    judged = judge_pre_ranking(channels, [Knowing(events, 0.2)], None, events)
    assert not judged.helps
    assert judged.gain == pytest.approx(-0.8)
    low, high = judged.interval
    assert low < judged.gain < high < 0


def test_a_better_scorer_than_the_merge_stays(events: EvaluationSet) -> None:
    alone = [FirstForHalf("even", events, 0)]
    judged = judge_pre_ranking(alone, [Knowing(events, 1.0)], None, events)
    assert judged.helps
    assert judged.gain == pytest.approx(0.5)  # every target first, where half of them had been eleventh
    assert judged.interval[0] > 0


def test_a_scorer_that_changes_nothing_is_left_out(events: EvaluationSet) -> None:
    channels = [FirstForHalf("even", events, 0), FirstForHalf("odd", events, 1)]
    assert not judge_pre_ranking(channels, [Knowing(events, 1.0)], None, events).helps


def test_the_choice_is_part_of_the_cascade_and_its_reason_of_the_report(events: EvaluationSet) -> None:
    channels = [FirstForHalf("even", events, 0), FirstForHalf("odd", events, 1)]
    scorer = Knowing(events, 0.2)
    chosen = choose_cascade({channel.name: channel for channel in channels}, [scorer], events).config
    assert chosen == CascadeConfig.model_validate_json(chosen.model_dump_json())
    assert not chosen.pre_rank
    funnel = trace(Cascade(channels, [scorer], config=chosen), events, ITEMS)
    assert "pre_rank" not in [stage.stage for stage in funnel.stages]
    assert "left out: on validation it changes the NDCG@10 of the final list by -0." in funnel.pre_ranking
    assert funnel.pre_ranking in funnel_section(funnel).blocks[2].markup  # type: ignore[union-attr]


def test_one_channel_or_no_event_leaves_the_defaults(events: EvaluationSet) -> None:
    even, odd, scorer = FirstForHalf("even", events, 0), FirstForHalf("odd", events, 1), Knowing(events, 1.0)
    assert choose_cascade({"even": even}, [scorer], events).config == CascadeConfig()
    assert choose_cascade({"even": even, "odd": odd}, [scorer], None).config == CascadeConfig()
    assert choose_cascade({"even": even, "odd": odd}, [], events).config.pre_rank

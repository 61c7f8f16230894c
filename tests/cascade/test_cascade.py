"""The cascade: who is asked, what is merged, how scorers order, and what a fault costs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import pytest

from recsys.cascade.answers import ChannelStatus
from recsys.cascade.cascade import Cascade, CascadeConfig
from recsys.cascade.merge import RankCurves
from recsys.errors import ConfigError, DeadlineError, PreconditionError, RequestError
from recsys.ranking.scorer import Stage
from recsys.testing.channel_contract import users_with_histories
from recsys.testing.scorer_contract import candidates_of
from recsys.types import Candidates, Deadline, RowMask, Scores, Users, offsets_of


class Fixed:
    """A channel that gives every user the same rows, with scores 100, 99, 98…"""

    def __init__(self, name: str, rows: list[int], before: Callable[[], object] = lambda: None) -> None:
        self.name, self.rows, self.before = name, rows, before
        self.asked: list[tuple[int, RowMask | None, Deadline | None]] = []

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        self.asked.append((k, allowed, deadline))
        self.before()
        rows = np.tile(np.array(self.rows[:k], np.int32), len(users))
        scores = np.tile(100 - np.arange(len(self.rows[:k]), dtype=np.float32), len(users))
        offsets = offsets_of([len(self.rows[:k])] * len(users))
        return Candidates(rows, scores, np.ones(len(rows), np.uint32), offsets)


class ByRow:
    """A scorer whose score is the row times a sign."""

    def __init__(self, name: str, stage: Stage, sign: int = 1) -> None:
        self.name, self.stage, self.sign = name, stage, sign
        self.seen: list[list[int]] = []

    def score(self, users: Users, candidates: Candidates) -> Scores:
        self.seen.append(candidates.rows.tolist())
        score = (self.sign * candidates.rows).astype(np.float32)
        return Scores(score, p_click=np.where(candidates.rows > 5, 0.9, 0.1).astype(np.float32))


def fail() -> None:
    raise ValueError("no such luck")


def be_late() -> None:
    raise DeadlineError("too slow")


ONE = users_with_histories([[1]])
TWO = users_with_histories([[1], []])


def test_one_channel_keeps_its_own_scores() -> None:
    answer = Cascade([Fixed("a", [4, 2, 9])]).recall(TWO, 2)
    assert answer.candidates.rows.tolist() == [4, 2, 4, 2]
    assert answer.candidates.scores.tolist() == [100, 99, 100, 99]
    assert answer.candidates.channels.tolist() == [1, 1, 1, 1]
    assert [(c.name, c.status) for c in answer.channels] == [("a", ChannelStatus.OK)]


def test_masks_number_the_channels_of_the_answer_and_not_of_the_bundle() -> None:
    cascade = Cascade([Fixed("a", [1]), Fixed("b", [2]), Fixed("c", [3, 2])])
    answer = cascade.recall(ONE, 5, channels=["c", "b"])
    assert [channel.name for channel in answer.channels] == ["c", "b"]
    assert dict(zip(answer.candidates.rows.tolist(), answer.candidates.channels.tolist(), strict=True)) == {2: 3, 3: 1}


def test_mask_and_deadline_reach_the_channels() -> None:
    channel, allowed, deadline = Fixed("a", [1]), RowMask(np.ones(3, bool)), Deadline.after(60)
    Cascade([channel]).recall(ONE, 5, allowed=allowed, deadline=deadline)
    assert channel.asked == [(5, allowed, deadline)]


def test_a_failing_channel_leaves_the_answer_and_its_trace_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = Cascade([Fixed("broken", [7], fail), Fixed("well", [4, 2])]).recall(TWO, 5)
    assert [channel.status for channel in answer.channels] == [ChannelStatus.FAILED, ChannelStatus.OK]
    assert answer.candidates.rows.tolist() == [4, 2, 4, 2]
    assert answer.candidates.channels.tolist() == [2, 2, 2, 2]
    assert answer.degraded == ("broken",)
    assert "channel broken failed" in caplog.text
    assert "ValueError: no such luck" in caplog.text


def test_when_every_channel_fails_the_answer_is_empty() -> None:
    answer = Cascade([Fixed("broken", [7], fail)]).recall(TWO, 5)
    assert answer.candidates.counts.tolist() == [0, 0]
    assert answer.degraded == ("broken",)


def test_a_channel_with_nothing_to_say_is_empty_and_no_fault() -> None:
    answer = Cascade([Fixed("silent", []), Fixed("well", [4])]).recall(ONE, 5)
    assert [channel.status for channel in answer.channels] == [ChannelStatus.EMPTY, ChannelStatus.OK]
    assert answer.degraded == ()


def test_a_slow_channel_makes_those_after_it_late() -> None:
    slow = Fixed("slow", [7], lambda: time.sleep(0.03))
    unasked = Fixed("unasked", [4])
    answer = Cascade([slow, unasked]).recall(ONE, 5, deadline=Deadline.after(0.01))
    assert [channel.status for channel in answer.channels] == [ChannelStatus.OK, ChannelStatus.LATE]
    assert answer.candidates.rows.tolist() == [7]
    assert answer.degraded == ("unasked",)
    assert unasked.asked == []
    assert answer.channels[0].micros >= 30_000


def test_a_channel_that_gives_up_is_late() -> None:
    answer = Cascade([Fixed("late", [7], be_late), Fixed("well", [4])]).recall(ONE, 5)
    assert [channel.status for channel in answer.channels] == [ChannelStatus.LATE, ChannelStatus.OK]


def test_no_answer_in_time_is_an_error() -> None:
    with pytest.raises(DeadlineError):
        Cascade([Fixed("a", [1]), Fixed("b", [2])]).recall(ONE, 5, deadline=Deadline.after(-1))


def test_without_scorers_the_run_ends_with_the_merge() -> None:
    ranked = Cascade([Fixed("a", [4, 2, 9])]).run(ONE, 2)
    assert ranked.candidates.rows.tolist() == [4, 2]
    assert ranked.scores.score.tolist() == [100, 99]
    assert [(s.name, s.count_in, s.count_out) for s in ranked.stages] == [
        ("recall", 0, 2),
        ("merge", 2, 2),
        ("top_k", 2, 2),
    ]


def test_scorers_order_what_was_recalled_and_each_stage_is_reported() -> None:
    pre, rank = ByRow("pre", Stage.PRE_RANK), ByRow("final", Stage.RANK, -1)
    cascade = Cascade([Fixed("a", list(range(10)))], [rank, pre], config=CascadeConfig(recalled=8, pre_ranked=4))
    ranked = cascade.run(ONE, 2)
    assert pre.seen == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert rank.seen == [[7, 6, 5, 4]]
    assert ranked.candidates.rows.tolist() == [4, 5]
    assert ranked.candidates.scores.tolist() == [96, 95]
    assert ranked.scores.score.tolist() == [-4, -5]
    assert ranked.scores.p_click is not None
    assert ranked.scores.p_click.tolist() == pytest.approx([0.1, 0.1])
    assert [(s.name, s.count_in, s.count_out) for s in ranked.stages] == [
        ("recall", 0, 8),
        ("merge", 8, 8),
        ("pre_rank", 8, 4),
        ("rank", 4, 2),
        ("top_k", 2, 2),
    ]
    assert ranked.degraded == ()


def test_a_pre_ranker_that_does_not_help_is_left_out_of_the_run_and_can_still_be_asked() -> None:
    pre, rank = ByRow("pre", Stage.PRE_RANK), ByRow("final", Stage.RANK, -1)
    config = CascadeConfig(recalled=8, pre_ranked=4, pre_rank=False)
    alone = Cascade([Fixed("a", list(range(10)))], [pre], config=config)
    ranked = alone.run(ONE, 2)
    assert ranked.candidates.rows.tolist() == [0, 1]
    assert [stage.name for stage in ranked.stages] == ["recall", "merge", "top_k"]
    assert alone.score(ONE, ranked.candidates, Stage.PRE_RANK).score.tolist() == [0, 1]
    followed = Cascade([Fixed("a", list(range(10)))], [pre, rank], config=config).run(ONE, 2)
    assert rank.seen == [[0, 1, 2, 3]]
    assert followed.candidates.rows.tolist() == [0, 1]


def test_equal_scores_stand_as_they_stood_and_users_stay_apart() -> None:
    class Constant(ByRow):
        def score(self, users: Users, candidates: Candidates) -> Scores:
            return Scores(np.zeros(len(candidates.rows), np.float32))

    ranked = Cascade([Fixed("a", [4, 2, 9])], [Constant("flat", Stage.RANK)]).run(TWO, 2)
    assert [ranked.candidates.of(b)[0].tolist() for b in range(2)] == [[4, 2], [4, 2]]


def test_k_beyond_the_stages_sizes_is_honoured() -> None:
    config = CascadeConfig(recalled=3, pre_ranked=2)
    cascade = Cascade(
        [Fixed("a", list(range(20)))], [ByRow("pre", Stage.PRE_RANK), ByRow("r", Stage.RANK)], None, config
    )
    assert len(cascade.run(ONE, 10).candidates.rows) == 10


def test_a_failing_scorer_is_skipped_and_named(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ByRow):
        def score(self, users: Users, candidates: Candidates) -> Scores:
            raise ValueError("no weights")

    with caplog.at_level(logging.ERROR):
        ranked = Cascade([Fixed("a", list(range(9)))], [Broken("pre", Stage.PRE_RANK)]).run(ONE, 3)
    assert ranked.candidates.rows.tolist() == [0, 1, 2]
    assert ranked.scores.score.tolist() == [100, 99, 98]
    assert ranked.degraded == ("pre_rank",)
    assert "ValueError: no weights" in caplog.text


def test_a_scorer_that_time_does_not_suffice_for_is_skipped() -> None:
    slow = Fixed("slow", [7, 3], lambda: time.sleep(0.03))
    ranked = Cascade([slow], [ByRow("pre", Stage.PRE_RANK)]).run(ONE, 3, deadline=Deadline.after(0.01))
    assert ranked.candidates.rows.tolist() == [7, 3]
    assert ranked.degraded == ("pre_rank",)


def test_score_uses_the_stage_asked_for_and_else_the_last() -> None:
    cascade = Cascade([], [ByRow("pre", Stage.PRE_RANK), ByRow("final", Stage.RANK, -1)])
    candidates = candidates_of([[3, 8]])
    assert cascade.score(ONE, candidates, Stage.PRE_RANK).score.tolist() == [3, 8]
    assert cascade.score(ONE, candidates).score.tolist() == [-3, -8]


def test_a_stage_that_is_not_there_is_refused_with_those_that_are() -> None:
    cascade = Cascade([], [ByRow("pre", Stage.PRE_RANK)])
    with pytest.raises(PreconditionError, match=r"rank.*it has: pre_rank"):
        cascade.score(ONE, candidates_of([[1]]), Stage.RANK)
    with pytest.raises(PreconditionError, match="it has: none"):
        Cascade([]).score(ONE, candidates_of([[1]]))


def test_bad_requests_name_field_value_and_bound() -> None:
    cascade = Cascade([Fixed("a", [1]), Fixed("b", [2])])
    with pytest.raises(RequestError, match="k = 0: must be at least 1"):
        cascade.recall(ONE, 0)
    with pytest.raises(RequestError, match=r"'mind'.*it has: a, b"):
        cascade.run(ONE, 5, channels=["a", "mind"])
    with pytest.raises(RequestError, match="once"):
        cascade.recall(ONE, 5, channels=["a", "a"])


def test_ambiguous_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="a, a"):
        Cascade([Fixed("a", []), Fixed("a", [])])
    with pytest.raises(ConfigError, match="32"):
        Cascade([Fixed(f"c{i}", []) for i in range(33)])
    with pytest.raises(ConfigError, match=r"one \(pre_rank\), two"):
        Cascade([], [ByRow("one", Stage.PRE_RANK), ByRow("two", Stage.PRE_RANK)])


def test_the_configuration_s_curves_decide_the_merge_whichever_channels_are_asked_or_answer() -> None:
    faulty = [Fixed("broken", [5], fail), Fixed("late", [6], be_late)]
    said = {"weak": (0.1, 0), "broken": (9, 0), "late": (9, 0), "strong": (3, 1)}
    curves = RankCurves(places=(1, 9), log_odds=said)
    cascade = Cascade([Fixed("weak", [1, 2]), Fixed("strong", [3, 4]), *faulty], config=CascadeConfig(merge=curves))
    assert cascade.recall(ONE, 4, channels=["weak", "strong"]).candidates.rows.tolist() == [3, 4, 1, 2]
    answer = cascade.recall(ONE, 4)
    assert answer.candidates.rows.tolist() == [3, 4, 1, 2]
    assert answer.degraded == ("broken", "late")
    assert cascade.recall(ONE, 2, channels=["weak"]).candidates.scores.tolist() == [100, 99]


def test_a_channel_without_a_curve_is_refused_where_others_have_one() -> None:
    curves = RankCurves(places=(1, 9), log_odds={"old": (1, 0), "gone": (1, 0)})
    with pytest.raises(ConfigError, match="curves for old, gone, and none for new"):
        Cascade([Fixed("old", [1]), Fixed("new", [2])], config=CascadeConfig(merge=curves))

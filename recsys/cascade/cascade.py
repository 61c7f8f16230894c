"""The cascade: channels find, the merge unites, scorers order, the best k remain."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from recsys.cascade.answers import ChannelAnswer, ChannelStatus, Ranked, Recalled, StageReport
from recsys.cascade.merge import Merge, RankCurves, RankFusion
from recsys.config import Config
from recsys.errors import ConfigError, DeadlineError, PreconditionError, RequestError
from recsys.index.ordering import best_first
from recsys.ranking.scorer import Scorer, Stage
from recsys.retrieval.channel import Channel
from recsys.types import MAX_CHANNELS, Candidates, Deadline, Offsets, RowMask, Scores, Users, offsets_of

log = logging.getLogger(__name__)


class CascadeConfig(Config):
    """How many candidates a user has at each stage of `run`, at least k, and how lists are merged.

    Attributes:
        recalled: found by every channel, and left by the merge.
        pre_ranked: left by the pre-ranker for the ranker.
        merge: what was learned of the channels' lists for the merge; None = by reciprocal rank, all alike.
        pre_rank: whether `run` has the pre-ranker order the merged list; `score` can ask it all the same.
        pre_rank_gain: what that adds to the NDCG@10 of the final list on validation, and the ends of its 95 %
            interval; None where nobody measured it.
    """

    recalled: int = 500
    pre_ranked: int = 200
    merge: RankCurves | None = None
    pre_rank: bool = True
    pre_rank_gain: tuple[float, float, float] | None = None


class Cascade:
    """Channels and scorers of one bundle as one `recall`, one `run` and one `score`.

    Args:
        channels: in the order of the masks; at most 32, with different names.
        scorers: at most one a stage.
        merge: how the lists of several channels become one; None = by rank, as `config` says.
        config: sizes of the stages, the rule of the merge, and whether the pre-ranker runs.

    Attributes:
        config: as given, or the defaults.

    Raises:
        ConfigError: for two channels of one name, two scorers of one stage, too many channels, or a channel that
            the rule of the merge does not name.
    """

    def __init__(
        self,
        channels: Iterable[Channel],
        scorers: Iterable[Scorer] = (),
        merge: Merge | None = None,
        config: CascadeConfig | None = None,
    ) -> None:
        channels, scorers = tuple(channels), tuple(scorers)
        self._channels = {channel.name: channel for channel in channels}
        self._scorers = {scorer.stage: scorer for scorer in scorers}
        self.config = config or CascadeConfig()
        self._merge = merge or RankFusion(self.config.merge)
        if len(self._channels) < len(channels) or len(channels) > MAX_CHANNELS:
            names = ", ".join(channel.name for channel in channels)
            raise ConfigError(f"channels need different names, and at most {MAX_CHANNELS} fit a mask: {names}")
        if self.config.merge is not None and (unknown := self._channels.keys() - self.config.merge.log_odds.keys()):
            known = ", ".join(self.config.merge.log_odds)
            raise ConfigError(
                f"the merge has curves for {known}, and none for {', '.join(sorted(unknown))}; train the bundle anew"
            )
        if len(self._scorers) < len(scorers):
            found = ", ".join(f"{scorer.name} ({scorer.stage})" for scorer in scorers)
            raise ConfigError(f"a stage has one scorer; there are: {found}")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return tuple(self._channels)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Scoring stages that the bundle has, in the order in which they run."""
        return tuple(stage for stage in Stage if stage in self._scorers)

    def recall(
        self,
        users: Users,
        k: int,
        *,
        channels: Sequence[str] = (),
        allowed: RowMask | None = None,
        deadline: Deadline | None = None,
    ) -> Recalled:
        """Asks the channels, one after the other, and merges what they found into k rows a user.

        A channel that fails or is late leaves the answer; the request goes on without it.

        Args:
            users: the batch.
            k: rows a user, at least 1.
            channels: names of those to ask; empty = all.
            allowed: rows that may be returned; None = all.
            deadline: channels that have not begun when it passes are late.

        Raises:
            RequestError: for k below 1, or a channel that there is not, or that is named twice.
            DeadlineError: when time ran out before any channel had an answer.
        """
        answers = self._ask(users, k, self._chosen(k, channels), allowed, deadline)
        return Recalled(self._merged(answers, k), answers)

    def run(
        self,
        users: Users,
        k: int,
        *,
        channels: Sequence[str] = (),
        allowed: RowMask | None = None,
        deadline: Deadline | None = None,
    ) -> Ranked:
        """The whole cascade: recall, merge, pre-rank, rank, top k. Arguments and errors as `recall`.

        A scorer that fails, or that time does not suffice for, is skipped: the order before it stands.
        """
        clock, stages, degraded = _Clock(), list[StageReport](), list[str]()
        chosen = self._chosen(k, channels)
        size = max(k, self.config.recalled) if self._scorers else k

        answers = self._ask(users, size, chosen, allowed, deadline)
        found = sum(len(answer.candidates.rows) for answer in answers)
        stages.append(StageReport("recall", 0, found, clock.lap()))

        running = [stage for stage in self.stages if self.config.pre_rank or stage is not Stage.PRE_RANK]
        candidates = self._merged(answers, size)
        scores = Scores(candidates.scores)
        if running and not self.config.pre_rank:  # the ranker gets no more than it would from a pre-ranker
            candidates, scores = _truncated(candidates, scores, max(k, self.config.pre_ranked))
        stages.append(StageReport("merge", found, len(candidates.rows), clock.lap(), candidates))

        for stage in running:
            count_in = len(candidates.rows)
            scored = self._scored(stage, users, candidates, deadline)
            if scored is None:
                degraded.append(stage.value)
            else:
                left = k if stage is running[-1] else max(k, self.config.pre_ranked)
                candidates, scores = reordered(candidates, scored, left)
            stages.append(StageReport(stage.value, count_in, len(candidates.rows), clock.lap(), candidates))

        count_in = len(candidates.rows)
        candidates, scores = _truncated(candidates, scores, k)
        stages.append(StageReport("top_k", count_in, len(candidates.rows), clock.lap(), candidates))
        faults = Recalled(candidates, answers).degraded + tuple(degraded)
        return Ranked(candidates, scores, tuple(stages), answers, faults)

    def score(self, users: Users, candidates: Candidates, stage: Stage | None = None) -> Scores:
        """Scores given candidates as a stage would; None = the last stage that there is.

        Raises:
            PreconditionError: names the stages of the bundle when it lacks this one.
        """
        wanted = stage if stage is not None else (self.stages or (None,))[-1]
        if wanted is None or wanted not in self._scorers:
            known = ", ".join(self.stages) or "none"
            raise PreconditionError(f"stage = {wanted or 'any'}: the bundle has no scorer for it; it has: {known}")
        return self._scorers[wanted].score(users, candidates)

    def _chosen(self, k: int, names: Sequence[str]) -> tuple[Channel, ...]:
        if k < 1:
            raise RequestError("k", k, "must be at least 1")
        if not names:
            return tuple(self._channels.values())
        for name in names:
            if name not in self._channels:
                known = ", ".join(self._channels) or "none"
                raise RequestError("channels", name, f"the bundle has no such channel; it has: {known}")
        if len(set(names)) < len(names):
            raise RequestError("channels", list(names), "must name every channel once")
        return tuple(self._channels[name] for name in names)

    def _ask(
        self, users: Users, k: int, channels: Sequence[Channel], allowed: RowMask | None, deadline: Deadline | None
    ) -> tuple[ChannelAnswer, ...]:
        answers = tuple(_answer(channel, users, k, allowed, deadline) for channel in channels)
        late = any(answer.status is ChannelStatus.LATE for answer in answers)
        if late and not any(answer.found_in_time for answer in answers):
            raise DeadlineError("time ran out before any channel had an answer; allow more, or ask fewer channels")
        return answers

    def _merged(self, answers: Sequence[ChannelAnswer], k: int) -> Candidates:
        """One list a user; a single channel's list is left as it is, scores included."""
        if len(answers) == 1:
            return answers[0].candidates
        return self._merge.merge({answer.name: answer.candidates for answer in answers}, k)

    def _scored(self, stage: Stage, users: Users, candidates: Candidates, deadline: Deadline | None) -> Scores | None:
        """Scores of a stage, None when it failed or came too late."""
        if deadline is not None and deadline.passed:
            return None
        try:
            return self._scorers[stage].score(users, candidates)
        except Exception:  # whatever a model raises, an answer in the order before it is better than none
            log.exception("scorer %s failed", self._scorers[stage].name)
            return None


def _answer(
    channel: Channel, users: Users, k: int, allowed: RowMask | None, deadline: Deadline | None
) -> ChannelAnswer:
    """Asks one channel; its faults become a status."""
    started = time.perf_counter_ns()
    candidates, status = None, ChannelStatus.LATE
    if deadline is None or not deadline.passed:
        try:
            candidates = channel.recall(users, k, allowed, deadline)
            if candidates.complete:
                status = ChannelStatus.OK if len(candidates.rows) else ChannelStatus.EMPTY
        except DeadlineError:
            log.warning("channel %s was late", channel.name)
        except Exception:  # whatever a channel raises, an answer of the others is better than none
            log.exception("channel %s failed", channel.name)
            status = ChannelStatus.FAILED
    if candidates is None:
        candidates = Candidates.empty(len(users))
    return ChannelAnswer(channel.name, status, candidates, (time.perf_counter_ns() - started) // 1000)


def reordered(candidates: Candidates, scores: Scores, k: int) -> tuple[Candidates, Scores]:
    """Orders each user's candidates by score, equal ones as they stood, and keeps the first k."""
    parts = [
        best_first(scores.score[start:stop])[:k] + start
        for start, stop in zip(candidates.offsets[:-1], candidates.offsets[1:], strict=True)
    ]
    order = np.concatenate(parts) if parts else np.empty(0, np.int64)
    return _picked(candidates, scores, order, np.array([len(part) for part in parts], np.int64))


def _truncated(candidates: Candidates, scores: Scores, k: int) -> tuple[Candidates, Scores]:
    """The first k of each user."""
    counts = candidates.counts
    if not len(counts) or counts.max() <= k:
        return candidates, scores
    kept = np.minimum(counts, k)
    order = np.concatenate(
        [np.arange(start, start + n) for start, n in zip(candidates.offsets[:-1], kept, strict=True)]
    )
    return _picked(candidates, scores, order, kept)


def _picked(candidates: Candidates, scores: Scores, order: Offsets, counts: Offsets) -> tuple[Candidates, Scores]:
    picked = replace(
        candidates,
        rows=candidates.rows[order],
        scores=candidates.scores[order],
        channels=candidates.channels[order],
        offsets=offsets_of(counts),
    )
    return picked, Scores(
        scores.score[order],
        None if scores.p_click is None else scores.p_click[order],
        None if scores.p_conversion is None else scores.p_conversion[order],
    )


class _Clock:
    """Microseconds between laps."""

    def __init__(self) -> None:
        self._last = time.perf_counter_ns()

    def lap(self) -> int:
        """Microseconds since the last lap."""
        now = time.perf_counter_ns()
        self._last, passed = now, now - self._last
        return passed // 1000

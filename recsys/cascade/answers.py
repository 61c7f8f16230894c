"""What a cascade answers with: candidates, and what every channel and stage did for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from recsys.types import Candidates, Scores


class ChannelStatus(StrEnum):
    """What became of a channel."""

    OK = "ok"
    EMPTY = "empty"
    LATE = "late"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, eq=False)
class ChannelAnswer:
    """One channel's part of an answer.

    `candidates` is empty unless the status is OK, or LATE of a channel that had found something when time ran out.
    """

    name: str
    status: ChannelStatus
    candidates: Candidates
    micros: int

    @property
    def found_in_time(self) -> bool:
        """Whether the channel answered, be it with nothing."""
        return self.status in (ChannelStatus.OK, ChannelStatus.EMPTY) or len(self.candidates.rows) > 0


@dataclass(frozen=True, slots=True, eq=False)
class StageReport:
    """One stage: candidates in and out over the whole batch, and microseconds.

    `candidates` is what the stage left, for whoever follows an item through the cascade; None for
    recall, whose lists are those of the channels.
    """

    name: str
    count_in: int
    count_out: int
    micros: int
    candidates: Candidates | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Recalled:
    """What retrieval found.

    Attributes:
        candidates: merged; bit i of a mask is `channels[i]`. With one channel asked for, its own
            scores; with several, only the order means anything.
        channels: every channel asked for, in order.
    """

    candidates: Candidates
    channels: tuple[ChannelAnswer, ...]

    @property
    def degraded(self) -> tuple[str, ...]:
        """Names of the channels that were late or failed."""
        faults = (ChannelStatus.LATE, ChannelStatus.FAILED)
        return tuple(channel.name for channel in self.channels if channel.status in faults)


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The end of the cascade.

    Attributes:
        candidates: in final order, with the scores of retrieval.
        scores: of the last scorer that ran, aligned; those of retrieval when none did.
        stages: recall, merge, then the scoring stages that there are, then top_k.
        channels: as in `Recalled`.
        degraded: names of the channels and stages that were late or failed.
    """

    candidates: Candidates
    scores: Scores
    stages: tuple[StageReport, ...]
    channels: tuple[ChannelAnswer, ...]
    degraded: tuple[str, ...]

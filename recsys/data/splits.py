"""What may be learnt from and what must be predicted: leave-one-out and global time splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.columns import CREATED_MS, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.errors import DataError, UsageError
from recsys.types import RowMask

Protocol = Literal["leave_one_out", "global_time"]


@dataclass(frozen=True, slots=True)
class Holdout:
    """What is kept back for the test: nothing, each user's last event, or the newest share of time.

    Attributes:
        kind: "none", "last" or "time".
        share: of the events that "time" holds back, 0 for the others.
    """

    kind: Literal["none", "last", "time"]
    share: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Holdout:
        """Reads "none", "last" or "time:0.1".

        Raises:
            UsageError: for anything else.
        """
        if text == "none":
            return cls("none")
        if text == "last":
            return cls("last")
        kind, _, share = text.partition(":")
        try:
            held = float(share)
        except ValueError:
            held = 0.0
        if kind != "time" or not 0.0 < held < 0.5:
            raise UsageError(
                f"--holdout {text}: write none, last, or time: and a share above 0 and below 0.5, such as time:0.1"
            )
        return cls("time", held)

    def __str__(self) -> str:
        return f"time:{self.share:g}" if self.kind == "time" else self.kind

    @property
    def protocol(self) -> Protocol | None:
        """Name of the protocol in reports; None when nothing is held out."""
        return {"none": None, "last": "leave_one_out", "time": "global_time"}[self.kind]  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A dataset divided by a hold-out.

    Attributes:
        holdout: how it was divided.
        train: what a model may be fitted on before validation is looked at.
        validation: what to choose settings and epochs by; taken from what remains after the test.
        test: what is looked at once; None when nothing is held out.
        everything: every click and conversion given: what a refit learns from.
        train_events: events of all types that lie in the training part.
        cut_off_ms: first instant that training did not see (time splits only).
    """

    holdout: Holdout
    train: Interactions
    validation: EvaluationSet | None
    test: EvaluationSet | None
    everything: Interactions
    train_events: pl.LazyFrame
    cut_off_ms: int | None = None


def split(dataset: Dataset, catalogue: Catalogue, holdout: Holdout) -> Split:
    """Divides a dataset.

    Raises:
        DataError: for a time split of order-only data, or one that leaves nothing to learn from.
    """
    everything = Interactions.from_events(dataset.events(), catalogue)
    if holdout.kind == "time":
        return _split_by_time(dataset, catalogue, holdout, everything)
    return _split_by_position(dataset, holdout, everything)


def _split_by_position(dataset: Dataset, holdout: Holdout, everything: Interactions) -> Split:
    """Leave-one-out: the last interaction is the test ("last" only), the one before it validation."""
    lengths = everything.lengths
    held = 2 if holdout.kind == "last" else 1
    users = np.flatnonzero(lengths > held).astype(np.int32)
    train_length = lengths.copy()
    train_length[users] -= held
    position = np.arange(everything.size) - np.repeat(everything.offsets[:-1], lengths)
    train = everything.where(position < np.repeat(train_length, lengths))
    if not len(users):
        raise DataError(
            f"{dataset.path}: --holdout {holdout} needs a user with at least {held + 1} clicks or conversions; there is none"
        )
    validation = _targets(everything, users, train_length[users])
    test = _targets(everything, users, train_length[users] + 1) if held == 2 else None
    first_held = everything.offsets[users] + train_length[users]
    return Split(holdout, train, validation, test, everything, _events_before(dataset, everything, users, first_held))


def _events_before(
    dataset: Dataset, everything: Interactions, users: NDArray[np.int32], first_held: NDArray[np.int64]
) -> pl.LazyFrame:
    """Events older than their user's first held-out one; all events of users without any."""
    raise DataError("")


def _split_by_time(dataset: Dataset, catalogue: Catalogue, holdout: Holdout, everything: Interactions) -> Split:
    raise DataError("")


def _targets(
    sequences: Interactions,
    user: NDArray[np.int32],
    position: NDArray[np.integer],
    eligible: RowMask | None = None,
) -> EvaluationSet:
    raise DataError("")

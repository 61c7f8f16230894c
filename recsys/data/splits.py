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
from recsys.data.interactions import EvaluationSet, Interactions, positives
from recsys.errors import DataError, UsageError
from recsys.types import Bools, Ids, RowMask

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
        protocols: dict[str, Protocol | None] = {"none": None, "last": "leave_one_out", "time": "global_time"}
        return protocols[self.kind]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A dataset divided by a hold-out.

    Attributes:
        holdout: how it was divided.
        train: what a model may be fitted on before validation is looked at.
        validation: what to choose settings and epochs by; taken from what remains after the test.
        test: what is looked at once; None when nothing is held out.
        everything: every click and conversion given: what a refit learns from.
        known: everything but the test: what a server may know of its users when it is tested.
        train_events: events of all types that lie in the training part.
        cut_off_ms: first instant that training did not see (time splits only).
    """

    holdout: Holdout
    train: Interactions
    validation: EvaluationSet | None
    test: EvaluationSet | None
    everything: Interactions
    known: Interactions
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
    if not len(users):
        raise DataError(
            f"{dataset.path}: --holdout {holdout} needs a user with at least {held + 1} clicks or conversions; "
            "there is none"
        )
    kept, known = lengths.copy(), lengths.copy()
    kept[users] -= held
    known[users] -= held - 1
    fresh = everything.first_occurrence()
    position = np.arange(everything.size) - np.repeat(everything.offsets[:-1], lengths)
    return Split(
        holdout=holdout,
        train=everything.where(position < np.repeat(kept, lengths)),
        validation=_targets(everything, fresh, users, kept[users]),
        test=_targets(everything, fresh, users, kept[users] + 1) if held == 2 else None,
        everything=everything,
        known=everything.where(position < np.repeat(known, lengths)),
        train_events=_events_before_last(dataset.events(), held),
    )


def _events_before_last(events: pl.LazyFrame, held: int) -> pl.LazyFrame:
    """Events older than their user's `held` newest positives; all of users with no more than that."""
    order = [TIMESTAMP_MS, EVENT_ID]
    first_held = (
        positives(events)
        .group_by(USER_ID)
        .agg(
            pl.len().alias("positives"),
            *(pl.col(n).sort_by(order).get(-held, null_on_oob=True).alias(f"held_{n}") for n in order),
        )
        .filter(pl.col("positives") > held)
        .drop("positives")
    )
    older = (pl.col(TIMESTAMP_MS) < pl.col(f"held_{TIMESTAMP_MS}")) | (
        (pl.col(TIMESTAMP_MS) == pl.col(f"held_{TIMESTAMP_MS}")) & (pl.col(EVENT_ID) < pl.col(f"held_{EVENT_ID}"))
    )
    return (
        events.join(first_held, on=USER_ID, how="left", maintain_order="left")
        .filter(older | pl.col(f"held_{EVENT_ID}").is_null())
        .drop(f"held_{name}" for name in order)
    )


def _split_by_time(dataset: Dataset, catalogue: Catalogue, holdout: Holdout, everything: Interactions) -> Split:
    """Training before t1, validation from t1 to t2, test from t2 on; histories roll forward."""
    if dataset.info.time == "order":
        raise DataError(
            f"{dataset.path} knows only the order of each user's events, not their times: "
            f"--holdout {holdout} cannot be made from it; use --holdout last"
        )
    events = dataset.events()
    test_from = _quantile(events, dataset.info.counts.events, 1 - holdout.share)
    before = int(events.select((pl.col(TIMESTAMP_MS) < test_from).sum()).collect().item())
    cut_off = _quantile(events, before, 1 - holdout.share)
    times = everything.timestamps_ms
    train = everything.where(times < cut_off)
    train_events = events.filter(pl.col(TIMESTAMP_MS) < cut_off)
    eligible = _known_items(train_events, catalogue, cut_off)
    fresh = everything.first_occurrence()
    validation = _targets_at(everything, fresh, (times >= cut_off) & (times < test_from), eligible)
    test = _targets_at(everything, fresh, times >= test_from, eligible)
    for part, size in (("train on", train.size), ("validate on", len(validation)), ("test on", len(test))):
        if not size:
            raise DataError(
                f"{dataset.path}: --holdout {holdout} leaves nothing to {part}: too few events, or too many at the "
                "same time; use another share or --holdout last"
            )
    known = everything.where(times < test_from)
    return Split(holdout, train, validation, test, everything, known, train_events, cut_off)


def _quantile(events: pl.LazyFrame, count: int, share: float) -> int:
    """Time of the event that `share` of the first `count` are before; `events` are sorted by time."""
    at = min(int(share * count), max(count - 1, 0))
    return int(events.select(TIMESTAMP_MS).slice(at, 1).collect().item())


def _known_items(train_events: pl.LazyFrame, catalogue: Catalogue, cut_off: int) -> RowMask:
    """Items with an event, or a date of creation, before the cut-off."""
    seen = train_events.select(pl.col(ITEM_ID).unique()).collect()[ITEM_ID].to_numpy()
    rows = catalogue.rows_of(seen)
    known = np.zeros(len(catalogue), np.bool_)
    known[rows[rows >= 0]] = True
    if CREATED_MS in catalogue.frame.columns:
        known |= (catalogue.frame[CREATED_MS] < cut_off).fill_null(False).to_numpy()
    return RowMask(known)


def _targets_at(sequences: Interactions, fresh: Bools, chosen: Bools, eligible: RowMask) -> EvaluationSet:
    """A target for every interaction that `chosen` (T,) marks."""
    flat = np.flatnonzero(chosen)
    user = (np.searchsorted(sequences.offsets, flat, side="right") - 1).astype(np.int32)
    return _targets(sequences, fresh, user, flat - sequences.offsets[user], eligible)


def _targets(
    sequences: Interactions, fresh: Bools, user: NDArray[np.int32], position: Ids, eligible: RowMask | None = None
) -> EvaluationSet:
    """The interactions at `position` of `user` as targets, less those no protocol can reward.

    `fresh` (T,) says of every interaction whether the user met its item for the first time.
    """
    flat = sequences.offsets[user] + position
    target = sequences.rows[flat]
    allowed = np.ones(len(target), np.bool_) if eligible is None else eligible.allowed[target]
    first = fresh[flat]
    keep = allowed & first
    return EvaluationSet(
        sequences=sequences,
        user=user[keep],
        history_end=position[keep].astype(np.int32),
        target=target[keep],
        eligible=eligible,
        dropped=int(np.count_nonzero(~allowed)),
        repeated=int(np.count_nonzero(allowed & ~first)),
    )

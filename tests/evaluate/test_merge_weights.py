"""Weights of the merge: what helps counts, what does not only fills up; on channels with a planted quality."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.interactions import EvaluationSet, Interactions
from recsys.evaluate.merge_weights import WEIGHTS, choose_weights
from recsys.types import Candidates, Deadline, RowMask, Users, offsets_of

USERS, ITEMS = 400, 300


@pytest.fixture
def events() -> EvaluationSet:
    """One event a user: user u chose row u mod ITEMS, then one at random."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, ITEMS, USERS).astype(np.int32)
    rows = np.column_stack((np.arange(USERS) % ITEMS, targets)).astype(np.int32).ravel()
    sequences = Interactions(np.arange(USERS), offsets_of([2] * USERS), rows, np.zeros(len(rows), np.int64))
    return EvaluationSet(sequences, np.arange(USERS, dtype=np.int32), np.ones(USERS, np.int32), targets)


class Placing:
    """Knows the targets of those users it is asked to find: at place 1; all else at random."""

    def __init__(self, name: str, events: EvaluationSet, finds: slice, seed: int, length: int = 100) -> None:
        self.name, self.events, self.finds, self.length = name, events, finds, length
        self.rng = np.random.default_rng(seed)

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        found = np.zeros(USERS, np.bool_)
        found[self.finds] = True
        lists = []
        for user, target in zip(users.ids, self.events.target[users.ids], strict=True):
            others = self.rng.permutation(np.delete(np.arange(ITEMS), target)).astype(np.int32)
            lists.append(np.append(target, others)[: self.length] if found[user] else others[: self.length])
        rows = np.concatenate(lists).astype(np.int32)
        ones = np.ones(len(rows), np.float32)
        return Candidates(rows, ones, ones.astype(np.uint32), offsets_of([self.length] * len(users)))


def test_a_channel_that_finds_nothing_gets_the_least_weight_and_takes_nothing_away(events: EvaluationSet) -> None:
    good, noise = Placing("good", events, slice(0, 300), 1), Placing("noise", events, slice(0), 2)
    chosen = choose_weights({"noise": noise, "good": good}, events)
    assert chosen.weights == {"good": 1.0, "noise": WEIGHTS[0]}
    assert chosen.metrics["recall@100"] == chosen.metrics["good.recall@100"] == 0.75
    assert chosen.metrics["noise.recall@100"] == 0


def test_a_channel_that_finds_what_the_strongest_misses_gets_more(events: EvaluationSet) -> None:
    first, second = Placing("first", events, slice(0, 220), 1, 10), Placing("second", events, slice(220, 400), 2, 10)
    chosen = choose_weights({"first": first, "second": second}, events)
    assert chosen.weights["first"] == 1
    assert chosen.weights["second"] == 1
    assert chosen.metrics["recall@100"] == 1
    assert chosen.metrics["ndcg@500"] > chosen.metrics["first.ndcg@500"]


def test_one_channel_has_weight_1(events: EvaluationSet) -> None:
    assert choose_weights({"only": Placing("only", events, slice(0, 10), 1)}, events).weights == {"only": 1}

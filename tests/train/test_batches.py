"""Batches: the right targets, every user once an epoch, a function of seed, epoch and step."""

from __future__ import annotations

import numpy as np
import torch

from recsys.data.interactions import Interactions
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.types import offsets_of


def interactions(*sequences: list[int]) -> Interactions:
    rows = np.concatenate([np.array(s, np.int32) for s in sequences])
    return Interactions(
        np.arange(len(sequences), dtype=np.int64),
        offsets_of([len(s) for s in sequences]),
        rows,
        np.zeros(len(rows), np.int64),
    )


def random_interactions(users: int = 40, items: int = 30) -> Interactions:
    rng = np.random.default_rng(0)
    return interactions(*[rng.integers(0, items, rng.integers(1, 20)).tolist() for _ in range(users)])


def test_each_place_has_the_next_item_as_its_target_and_padding_has_none() -> None:
    source = SequenceSource(interactions([3, 1, 2], [5]), {}, 6, SequenceSampling(batch_users=2, length=4))
    batch = source.batch(np.array([0, 1]), np.array([0, 0]), np.random.default_rng(0))
    assert batch.history.tolist() == [[3, 1], [0, 0]]
    assert batch.targets.tolist() == [[3, 1, 2], [5, -1, -1]]
    assert batch.samples == 4


def test_a_cut_window_does_not_pass_its_first_item_off_as_the_first_ever() -> None:
    source = SequenceSource(interactions(list(range(9))), {}, 9, SequenceSampling(batch_users=1, length=3))
    batch = source.batch(np.array([0]), np.array([4]), np.random.default_rng(0))
    assert batch.history.tolist() == [[4, 5, 6]]
    assert batch.targets.tolist() == [[-1, 5, 6, 7]]


def test_windows_of_a_long_history_reach_both_its_ends() -> None:
    source = SequenceSource(interactions(list(range(50))), {}, 50, SequenceSampling(batch_users=1, length=9))
    targets = {int(t) for epoch in range(200) for batch in source.epoch(epoch) for t in batch.targets.flatten()}
    assert {0, 49} <= targets


def test_every_user_comes_once_an_epoch_in_another_order_each_time() -> None:
    users = np.arange(40)
    source = SequenceSource(random_interactions(), {"me": users}, 30, SequenceSampling(batch_users=7, length=5, seed=1))
    orders = [torch.cat([batch.user["me"] for batch in source.epoch(epoch)]).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == users.tolist()
    assert orders[0] != orders[1]
    assert source.steps == 6


def test_an_epoch_begun_in_the_middle_goes_on_with_the_same_batches() -> None:
    sampling = SequenceSampling(batch_users=7, length=5, in_batch=8, uniform=4, seed=1)
    source = SequenceSource(random_interactions(), {}, 30, sampling)
    whole, rest = list(source.epoch(3)), list(source.epoch(3, start=2))
    assert len(rest) == len(whole) - 2
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.targets, b.targets)
        assert a.negatives is not None
        assert b.negatives is not None
        assert torch.equal(a.negatives.rows, b.negatives.rows)


def test_sampled_columns_are_targets_of_the_batch_then_even_draws() -> None:
    sampling = SequenceSampling(batch_users=40, length=20, in_batch=16, uniform=5)
    source = SequenceSource(random_interactions(), {}, 30, sampling)
    batch = next(source.epoch(0))
    negatives = batch.negatives
    assert negatives is not None
    targets = batch.targets[batch.targets >= 0]
    own = negatives.own
    assert negatives.rows.shape == (21,)
    assert int((own >= 0).sum()) == 16
    assert torch.equal(negatives.rows[own[own >= 0]], targets[own >= 0])
    assert abs(negatives.others - 16 * (1 - 1 / len(targets))) < 1e-9


def test_shares_are_counts_over_all() -> None:
    source = SequenceSource(interactions([0, 1, 1], [1]), {}, 3, SequenceSampling(batch_users=1, length=4))
    assert source.shares().tolist() == [0.25, 0.75, 0.0]

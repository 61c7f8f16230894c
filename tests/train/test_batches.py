"""Batches: the right targets, every user once an epoch, a function of seed, epoch and step."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.data.interactions import Interactions
from recsys.models.losses.softmax import expected_counts
from recsys.train.batches import SequenceSampling, SequenceSource, share_of
from recsys.train.ranks import Ranks
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


def test_even_draws_are_of_what_was_shown() -> None:
    sampling = SequenceSampling(batch_users=40, length=20, uniform=200)
    shown = np.array([3, 8, 21])
    source = SequenceSource(random_interactions(), {}, 30, sampling, shown=shown)
    negatives = next(source.epoch(0)).negatives
    assert negatives is not None
    assert set(negatives.rows.tolist()) == set(shown.tolist())


def test_sampled_columns_are_targets_of_the_batch_then_even_draws() -> None:
    sampling = SequenceSampling(batch_users=40, length=20, in_batch=16, uniform=5)
    source = SequenceSource(random_interactions(), {}, 30, sampling)
    batch = next(source.epoch(0))
    negatives = batch.negatives
    assert negatives is not None
    assert negatives.rows.shape == negatives.sequences.shape == (21,)
    assert negatives.sequences[16:].tolist() == [-1] * 5
    for row, sequence in zip(negatives.rows[:16], negatives.sequences[:16], strict=True):
        assert row in batch.targets[sequence]


def agree(differences: NDArray[np.float64]) -> bool:
    """Whether the mean of rounds (rounds, n) is zero but for chance: six standard errors."""
    error = differences.std(axis=0) / np.sqrt(len(differences))
    return bool((np.abs(differences.mean(axis=0)) <= 6 * error + 1e-9).all())


@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=12),
    items=st.integers(2, 12),
    window=st.integers(1, 9),
    in_batch=st.integers(0, 20),
    uniform=st.integers(1, 6),
)
@settings(max_examples=20, deadline=None)
def test_a_rows_negative_columns_hold_each_item_as_often_as_expected(
    lengths: list[int], items: int, window: int, in_batch: int, uniform: int
) -> None:
    rng = np.random.default_rng([*lengths, items])
    law = rng.dirichlet(np.ones(items))
    sampling = SequenceSampling(len(lengths), window, in_batch, uniform)
    differences = []
    for epoch in range(300):
        data = interactions(*[rng.choice(items, n, p=law).tolist() for n in lengths])
        (batch,) = SequenceSource(data, {}, items, sampling).epoch(epoch)
        drawn = batch.negatives
        assert drawn is not None
        owners = (batch.targets >= 0).nonzero()[:, 0]
        used = owners[:, None] != drawn.sequences
        counts = np.bincount(drawn.rows.expand_as(used)[used], minlength=items) / len(owners)
        differences.append(counts - expected_counts(torch.from_numpy(law), drawn.others, uniform, items).numpy())
    assert agree(np.array(differences))


def test_over_an_epoch_the_columns_that_rows_meet_have_the_shares_of_the_source() -> None:
    """Steps hold sequences of like length, and windows cut the long ones: the shares must know of both."""
    data = interactions(*[[i % 7] * 2 for i in range(8)], *[[7 + (i + j) % 5 for j in range(15)] for i in range(8)])
    sampling = SequenceSampling(batch_users=4, length=5, in_batch=6)
    source = SequenceSource(data, {}, 12, sampling)
    differences = []
    for epoch in range(400):
        met, rows = np.zeros(12), 0
        for batch in source.epoch(epoch):
            assert batch.negatives is not None
            met += batch.samples * np.bincount(batch.negatives.rows, minlength=12)
            rows += batch.samples
        differences.append(met / rows - 6 * source.shares())
    assert agree(np.array(differences))


def test_shares_are_counts_over_all() -> None:
    source = SequenceSource(interactions([0, 1, 1], [1]), {}, 3, SequenceSampling(batch_users=1, length=4))
    assert source.shares().tolist() == [0.25, 0.75, 0.0]


def test_what_a_long_sequence_holds_counts_for_as_often_as_a_window_shows_it() -> None:
    long = list(range(9))
    source = SequenceSource(interactions(long, [9, 9]), {}, 10, SequenceSampling(batch_users=2, length=3))
    windows = [source.batch(np.array([0]), np.array([start]), np.random.default_rng(0)) for start in range(6)]
    shown = np.zeros(10)
    for batch in windows:
        shown += np.bincount(batch.targets[batch.targets >= 0].numpy(), minlength=10) / len(windows)
    shown[9] = 2
    assert np.allclose(source.shares(), shown / shown.sum())


def test_the_shares_of_several_workers_are_the_batch() -> None:
    sampling = SequenceSampling(batch_users=7, length=5, in_batch=12, uniform=4, seed=1)
    users = {"me": np.arange(40)}
    whole = next(SequenceSource(random_interactions(), users, 30, sampling).epoch(2))
    shares = [next(SequenceSource(random_interactions(), users, 30, sampling, Ranks(r, 3)).epoch(2)) for r in range(3)]
    assert sum(share.samples for share in shares) == whole.samples
    for rank, share in enumerate(shares):
        assert torch.equal(share.targets, whole.targets[rank::3])
        assert torch.equal(share.history, whole.history[rank::3])
        assert torch.equal(share.user["me"], whole.user["me"][rank::3])


def test_every_worker_has_the_columns_of_the_whole_batch_and_knows_its_own() -> None:
    sampling = SequenceSampling(batch_users=7, length=5, in_batch=12, uniform=4, seed=1)
    whole = next(SequenceSource(random_interactions(), {}, 30, sampling).epoch(0)).negatives
    assert whole is not None
    for rank in range(3):
        share = next(SequenceSource(random_interactions(), {}, 30, sampling, Ranks(rank, 3)).epoch(0)).negatives
        assert share is not None
        assert torch.equal(share.rows, whole.rows)
        assert (share.others, share.uniform) == (whole.others, whole.uniform)
        mine = share.sequences >= 0
        assert torch.equal(3 * share.sequences[mine] + rank, whole.sequences[mine])
        assert not ((whole.sequences[~mine] >= 0) & (whole.sequences[~mine] % 3 == rank)).any()


def test_who_gets_no_sequence_of_a_small_batch_takes_one_that_does_not_count() -> None:
    source = SequenceSource(interactions([3, 1, 2], [5]), {}, 6, SequenceSampling(batch_users=2, length=4))
    whole = next(source.epoch(0))
    shares = [share_of(whole, rank, 3) for rank in range(3)]
    assert [len(share.targets) for share in shares] == [1, 1, 1]
    assert [share.samples for share in shares] == [int((t >= 0).sum()) for t in whole.targets] + [0]


def test_a_share_of_the_places_has_targets_the_same_ones_in_every_sequence_of_a_batch() -> None:
    sequences = random_interactions()
    sampling = SequenceSampling(batch_users=10, length=12, places=0.4, seed=1)
    some, every = (
        SequenceSource(sequences, {}, 30, s) for s in (sampling, SequenceSampling(batch_users=10, length=12, seed=1))
    )
    for part, whole in zip(some.epoch(0), every.epoch(0), strict=True):
        kept = (part.targets >= 0).any(dim=0)
        assert torch.equal(part.history, whole.history)
        assert torch.equal(part.targets[:, kept], whole.targets[:, kept])
        there = int((whole.targets >= 0).any(dim=0).sum())
        assert int(kept.sum()) == max(1, round(0.4 * there))
        assert part.samples == int((part.targets >= 0).sum())


def test_over_epochs_a_share_of_the_places_shows_every_target_alike() -> None:
    source = SequenceSource(
        interactions(list(range(10)), list(range(10))), {}, 10, SequenceSampling(batch_users=2, length=9, places=0.3)
    )
    shown = np.bincount(
        [int(t) for epoch in range(500) for batch in source.epoch(epoch) for t in batch.targets[batch.targets >= 0]],
        minlength=10,
    )
    assert shown.sum() == 500 * 2 * 3
    assert shown.min() > 0.75 * shown.mean()
    assert shown.max() < 1.25 * shown.mean()

"""Streamed shares: a batch is its rows one by one, the estimate is right, follows a drift, and survives a restart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.train.frequency import CountedFrequency, StreamingFrequency

ITEMS = 500


def zipf(items: int = ITEMS, exponent: float = 1.0) -> Tensor:
    law = torch.arange(1, items + 1, dtype=torch.float64) ** -exponent
    return law / law.sum()


def stream(law: Tensor, length: int, seed: int = 0) -> Tensor:
    return torch.multinomial(law, length, replacement=True, generator=torch.Generator().manual_seed(seed))


def relative_error(frequency: StreamingFrequency, law: Tensor, items: Tensor) -> float:
    """Median over items of |q̂/q − 1|."""
    return float((frequency.shares(items).double() / law[items] - 1).abs().median())


def one_by_one(rows: list[int], cells: int, rate: float) -> list[float]:
    """Gaps of the paper's update, item by item, where no two items share a cell."""
    last, gap, seen = [0] * cells, [0.0] * cells, [0] * cells
    for t, row in enumerate(rows, start=1):
        seen[row] += 1
        a = max(rate, 1 / seen[row])
        gap[row] = (1 - a) * gap[row] + a * (t - last[row])
        last[row] = t
    return gap


@given(
    rows=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    rate=st.sampled_from([0.01, 0.3, 0.9]),
)
@settings(max_examples=50, deadline=None)
def test_a_batch_gives_what_its_rows_give_one_by_one(rows: list[int], cuts: list[int], rate: float) -> None:
    whole, single, parts = (StreamingFrequency(16, rate=rate) for _ in range(3))
    stream_of_rows = torch.tensor(rows)
    whole.observe(stream_of_rows)
    for row in stream_of_rows:
        single.observe(row[None])
    for part in stream_of_rows.tensor_split(sorted(min(cut, len(rows)) for cut in cuts)):
        parts.observe(part)
    for other in (single, parts):
        for a, b in zip(whole.tensors().values(), other.tensors().values(), strict=True):
            assert torch.allclose(a.double(), b.double(), rtol=1e-9)


def test_the_gap_is_the_papers_average() -> None:
    rows = stream(zipf(20), 2000)
    frequency = StreamingFrequency(4096, rate=0.05)  # many cells: no two items share one in every hash
    frequency.observe(rows)
    gaps = torch.tensor(one_by_one(rows.tolist(), 20, 0.05))
    assert torch.allclose(frequency.shares(torch.arange(20)), 1 / gaps)


def test_time_counts_examples_so_that_the_size_of_batches_changes_nothing() -> None:
    """An item in every batch would have a gap of one batch, whatever its share."""
    rows = stream(zipf(), 20_000)
    shares = []
    for size in (1000, 10_000):
        frequency = StreamingFrequency(2048)
        for part in rows.split(size):
            frequency.observe(part)
        shares.append(frequency.shares(torch.arange(ITEMS)))
    assert torch.allclose(shares[0], shares[1], rtol=1e-6)
    assert shares[0][0] == pytest.approx(float(zipf()[0]), rel=0.3)


def test_the_estimate_is_the_true_share_within_its_spread() -> None:
    law = zipf()
    frequency = StreamingFrequency(1000)
    for part in stream(law, 300_000).split(3000):
        frequency.observe(part)
    assert relative_error(frequency, law, torch.arange(50)) < 0.1
    assert relative_error(frequency, law, torch.arange(ITEMS)) < 0.15
    assert float(frequency.shares(torch.arange(ITEMS)).sum()) == pytest.approx(1.0, abs=0.05)


def test_more_hashes_mend_what_shared_cells_spoil() -> None:
    """Items that share a cell look more frequent than they are; an item need be alone in one of its cells only."""
    law = zipf()
    errors = []
    for hashes in (1, 4):
        frequency = StreamingFrequency(ITEMS, hashes=hashes)
        frequency.observe(stream(law, 200_000))
        errors.append(relative_error(frequency, law, torch.arange(100, ITEMS)))
    assert errors[1] < 0.5 * errors[0]


def test_after_a_change_of_law_the_stream_follows_where_counts_cannot() -> None:
    before = zipf()
    after = before.flip(0)
    rows = torch.cat([stream(before, 200_000), stream(after, 60_000, seed=1)])
    frequency = StreamingFrequency(2048, rate=0.05)
    for part in rows.split(2000):
        frequency.observe(part)
    now_popular = torch.arange(ITEMS - 20, ITEMS)
    counted = torch.bincount(rows, minlength=ITEMS) / len(rows)
    assert relative_error(frequency, after, now_popular) < 0.25
    assert float((counted[now_popular] / after[now_popular] - 1).abs().median()) > 0.5


def test_a_row_never_seen_has_no_share() -> None:
    frequency = StreamingFrequency(64)
    frequency.observe(torch.tensor([1, 1, 2]))
    frequency.observe(torch.empty(0, dtype=torch.long))
    assert frequency.shares(torch.tensor([40])).tolist() == [0.0]
    assert frequency.shares(torch.tensor([1])).tolist() == [1.0]


def test_a_restored_stream_goes_on_to_the_bit() -> None:
    rows = stream(zipf(), 5000)
    whole, resumed = StreamingFrequency(256), StreamingFrequency(256)
    whole.observe(rows[:2000])
    kept = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    whole.observe(rows[2000:])
    resumed.restore(kept)
    resumed.observe(rows[2000:])
    for a, b in zip(whole.tensors().values(), resumed.tensors().values(), strict=True):
        assert torch.equal(a, b)


def test_counted_shares_are_given_back_as_they_are() -> None:
    counted = CountedFrequency(torch.tensor([0.5, 0.3, 0.2]))
    counted.observe(torch.tensor([2, 2, 2]))
    assert counted.shares(torch.tensor([2, 0])).tolist() == pytest.approx([0.2, 0.5])


@pytest.mark.parametrize("wrong", [{"hashes": 0}, {"hashes": 5}, {"rate": 0.0}, {"rate": 1.0}, {"cells": 0}])
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1, 1 to 4, above 0 and below 1"):
        StreamingFrequency(**{"cells": 8, **wrong})  # type: ignore[arg-type]

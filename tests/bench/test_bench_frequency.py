"""How near the streamed shares of items are to the true ones, on a law that stays and after one that is turned over.

Run with `pytest -m bench -s tests/bench/test_bench_frequency.py`.
"""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from recsys.train.frequency import StreamingFrequency

pytestmark = pytest.mark.bench

ITEMS, TOP, BATCH = 10_000, 100, 4_000


def error(shares: Tensor, law: Tensor) -> float:
    """Median of |q̂/q − 1|."""
    return float((shares.double() / law - 1).abs().median())


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_error_of_streamed_shares(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    law = torch.arange(1, ITEMS + 1, dtype=torch.float64).reciprocal()
    law /= law.sum()
    before = torch.multinomial(law, 2_000_000, replacement=True, generator=generator)
    after = torch.multinomial(law.flip(0), 200_000, replacement=True, generator=generator)
    frequency = StreamingFrequency(2 * ITEMS, rate=rate)
    began = time.process_time()
    for batch in before.split(BATCH):
        frequency.observe(batch)
    micros = (time.process_time() - began) / (len(before) / BATCH) * 1e6
    every, top = torch.arange(ITEMS), torch.arange(TOP)
    counted = torch.bincount(before, minlength=ITEMS) / len(before)
    print(f"\nrate {rate}: {micros:.0f} µs a batch of {BATCH:,}")
    print(f"2M targets of one law, all items: streamed {error(frequency.shares(every), law):.3f}", end="")
    print(f", counted {error(counted, law):.3f}; the {TOP} most popular: streamed", end=" ")
    print(f"{error(frequency.shares(top), law[top]):.3f}, counted {error(counted[top], law[top]):.3f}")
    for batch in after.split(BATCH):
        frequency.observe(batch)
    risen = torch.arange(ITEMS - TOP, ITEMS)
    counted = torch.bincount(torch.cat([before, after]), minlength=ITEMS) / (len(before) + len(after))
    streamed = error(frequency.shares(risen), law.flip(0)[risen])
    print(f"after 200k of the law turned over, the {TOP} now most popular: streamed {streamed:.3f}", end="")
    print(f", counted over all {error(counted[risen], law.flip(0)[risen]):.3f}")
    assert streamed < error(counted[risen], law.flip(0)[risen])

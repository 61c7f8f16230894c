"""Training on long histories: memory and time of a step, with the inside of attention blocks kept and recomputed.

pytest -m bench -s tests/bench/test_bench_long_histories.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
import pytest

USERS, ITEMS, STEPS = 8, 5_000, 2


def step_cost(length: int, recompute: bool) -> tuple[float, float]:
    """MiB that training steps add to a process, and CPU seconds a step, with four blocks of width 64."""
    import torch

    from recsys.data.interactions import Interactions
    from recsys.models.two_tower import TwoTower, TwoTowerShape
    from recsys.train.batches import SequenceSampling, SequenceSource
    from recsys.train.frequency import CountedFrequency
    from recsys.train.objective import NextItemObjective

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = TwoTowerShape(item_codes=ITEMS + 2, history_length=length, blocks=4, recompute=recompute)
    model = TwoTower(shape, torch.arange(2, ITEMS + 2), {}).train()

    def seconds_of_a_step(users: int, events: int) -> float:
        rows = np.random.default_rng(0).integers(0, ITEMS, users * events, dtype=np.int32)
        sequences = Interactions(np.arange(users), np.arange(users + 1) * events, rows, np.arange(len(rows)))
        source = SequenceSource(sequences, {}, ITEMS, SequenceSampling(users, length, in_batch=256, uniform=256))
        objective = NextItemObjective(model, CountedFrequency(torch.from_numpy(source.shares())))
        (batch,) = source.epoch(0)
        began = time.process_time()
        objective(batch).backward()  # type: ignore[no-untyped-call]
        return time.process_time() - began

    seconds_of_a_step(1, 5)  # what is imported and made once
    before = _peak_mib()
    seconds = min(seconds_of_a_step(USERS, length + 1) for _ in range(STEPS))
    return _peak_mib() - before, seconds


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.bench
@pytest.mark.parametrize("length", [1_000, 2_000, 5_000])
def test_recomputing_takes_less_memory(length: int) -> None:
    found = {}
    for recompute in (False, True):
        alone = [sys.executable, __file__, str(length), *(["recompute"] if recompute else [])]
        printed = subprocess.run(alone, check=True, capture_output=True, text=True).stdout
        found[recompute] = tuple(map(float, printed.split()))
    (kept, fast), (less, slow) = found[False], found[True]
    print(
        f"\n{USERS} histories of {length}: kept {kept:,.0f} MiB, {fast:.2f} CPU s a step; "
        f"recomputed {less:,.0f} MiB, {slow:.2f} CPU s a step"
    )
    assert less < kept


if __name__ == "__main__":
    print(*step_cost(int(sys.argv[1]), "recompute" in sys.argv))

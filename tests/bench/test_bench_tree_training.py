"""Training a tree retriever of ML-1M's size: prefixes a second on one core, beside loops over samples.

pytest -m bench -s tests/bench/test_bench_tree_training.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.index.item_tree import ItemTree
from recsys.models.sequence_batch import SequenceBatch
from recsys.models.tdm import Tdm
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.train.beam_objective import BeamObjective
from recsys.train.memory import keep_freed_memory
from recsys.train.objective import users_at_targets
from recsys.train.tree_objective import TreeObjective

pytestmark = pytest.mark.bench

ITEMS, SEQUENCES, LENGTH, NODES = 3_416, 16, 200, 512


def model_and_batch(sequences: int) -> tuple[Tdm, SequenceBatch]:
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    shape = TwoTowerShape(item_codes=ITEMS + 2, history="recency", history_length=LENGTH, dropout=0.0)
    tree = ItemTree(np.random.default_rng(0).permutation(ITEMS).astype(np.int32), ITEMS)
    model = Tdm(TwoTower(shape, torch.arange(2, ITEMS + 2), {}), tree).train()
    popular = (ITEMS * torch.rand(sequences, LENGTH + 1) ** 2).long()
    return model, SequenceBatch(popular[:, :-1], popular, samples=popular.numel())


def rate(model: Tdm, loss: Callable[[], Tensor], samples: int, steps: int) -> float:
    """Samples a second of CPU time, the best of some steps."""
    seconds = []
    for _ in range(steps + 1):
        model.zero_grad(set_to_none=True)
        began = time.process_time()
        loss().backward()  # type: ignore[no-untyped-call]
        seconds.append(time.process_time() - began)
    return samples / min(seconds[1:])


def sample_by_sample(model: Tdm, batch: SequenceBatch, at_once: int, most: int) -> Tensor:
    """The same loss with nodes and behaviours of its own for every sample, `at_once` of them in one tensor."""
    tree, attended = model.tree, model.attention.attended
    items = model.batch_items(torch.arange(ITEMS))
    users = users_at_targets(model.users, batch, F.embedding(batch.history, items.states))[:most]
    sequence, length = (batch.targets >= 0).nonzero()[:most].unbind(dim=1)
    age = torch.arange(1, attended + 1)
    place = length[:, None] - age
    there = torch.where(place >= 0, age, 0)
    behaviours = tree.of_rows(batch.history[sequence[:, None], place.clamp(min=0)])
    targets = tree.of_rows(batch.targets[batch.targets >= 0])[:most]
    total = torch.zeros(())
    for level in range(1, tree.depth + 1):
        nodes = tree.at_level(level)
        vectors = model.vectors(nodes, items)
        positives = torch.searchsorted(nodes, tree.ancestors(targets, level))
        above = torch.searchsorted(nodes, tree.ancestors(behaviours, level))
        for rows in torch.split(torch.arange(len(targets)), at_once):
            asked = torch.rand(len(rows), len(nodes)).topk(min(NODES, len(nodes)), dim=1).indices
            asked = torch.cat([positives[rows, None], asked], dim=1)
            scores = model.newest_scores(
                users[rows], model.bare(F.embedding(above[rows], vectors)), there[rows], F.embedding(asked, vectors)
            )
            again = asked[:, 1:] == asked[:, :1]
            scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(again, -1e9)], dim=1)
            total = total + F.cross_entropy(scores, torch.zeros(len(rows), dtype=torch.long), reduction="sum")
    return total / len(targets)


def test_prefixes_a_second() -> None:
    model, batch = model_and_batch(SEQUENCES)
    found = {"all prefixes at once": rate(model, lambda: TreeObjective(model)(batch), batch.samples, steps=3)}
    for at_once, most in ((1, 40), (64, 256)):
        name = f"{at_once} sample{'s' * (at_once > 1)} at a time"
        found[name] = rate(model, lambda o=at_once, m=most: sample_by_sample(model, batch, o, m), most, steps=1)  # type: ignore[misc]
    print(
        f"\n{SEQUENCES} sequences of {LENGTH + 1}, {ITEMS:,} items, one thread; {NODES} nodes a level, ours up to 768:"
    )
    for name, samples in found.items():
        print(f"  {name}: {samples:,.0f} prefixes/s")
    ours, *others = found.values()
    assert ours > 3 * max(others)


@pytest.mark.parametrize("beam", [50, 200])
def test_prefixes_a_second_of_the_beam_objective(beam: int) -> None:
    model, batch = model_and_batch(4)
    found = rate(model, lambda: BeamObjective(model, beam)(batch), batch.samples, steps=2)
    print(f"\nbeam {beam}, 4 sequences: {found:,.0f} prefixes/s")

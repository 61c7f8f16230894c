"""The objective of next items: which answers a target is told from."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recsys.models.sequence_batch import SequenceBatch
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.train.frequency import CountedFrequency
from recsys.train.objective import NextItemObjective

ITEMS = 6


@pytest.mark.parametrize("exclude", [False, True])
def test_a_target_is_told_from_all_items_or_from_those_its_user_does_not_have(exclude: bool) -> None:
    torch.manual_seed(0)
    shape = TwoTowerShape(item_codes=ITEMS + 2, dim=8, history_length=3)
    model = TwoTower(shape, torch.arange(2, ITEMS + 2), {}).eval()
    history, targets = torch.tensor([[3, 1, 4], [2, 0, 0]]), torch.tensor([[-1, 1, 4, 5], [2, 0, -1, -1]])
    batch = SequenceBatch(history, targets, samples=5)
    states, items = model.items()
    users = model.user_vectors(model.user_states(F.embedding(history, states), {}))
    logits = users @ items.T
    if exclude:
        for sequence, place in (targets >= 0).nonzero().tolist():
            logits[sequence, place, history[sequence, :place]] = -torch.inf
    expected = F.cross_entropy(logits[targets >= 0], targets[targets >= 0])
    objective = NextItemObjective(model, CountedFrequency(torch.empty(0)), exclude_history=exclude)
    assert torch.allclose(objective(batch), expected, atol=1e-6)

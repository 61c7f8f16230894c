"""The item side: states for histories and vectors for the index are one tower's, ids can be hidden in training."""

from __future__ import annotations

import torch
from torch import nn

from recsys.features.feature_set import Field
from recsys.models.item_tower import UNSEEN, ItemShape, ItemTower

YEAR = Field("year", "item", "numeric", 5)
CODES = torch.tensor([2, 3, 4, 1, 5], dtype=torch.int32)
YEARS = torch.tensor([2, 3, 4, 2, 3])


def item_tower(**changes: object) -> ItemTower:
    torch.manual_seed(0)
    shape = ItemShape(**{"item_codes": 6, "item_fields": (YEAR,), "dim": 8, "dropout": 0.0, **changes})  # type: ignore[arg-type]
    tower = ItemTower(shape, CODES, {"year": YEARS})
    for parameter in tower.parameters():
        nn.init.normal_(parameter, std=0.4)
    return tower


def test_blocks_of_the_catalogue_are_what_all_of_it_is() -> None:
    tower = item_tower().eval()
    _, vectors = tower()
    assert torch.allclose(torch.cat(list(tower.catalogue_blocks(2))), vectors, atol=1e-6)


def test_an_item_whose_id_is_hidden_is_the_unseen_one_with_its_attributes() -> None:
    hidden = item_tower(id_dropout=0.999999).train()
    shown = item_tower().train()
    states, vectors = hidden()
    like_new = torch.full_like(CODES, UNSEEN)
    expected = ItemTower(shown.shape, like_new, {"year": YEARS})
    expected.load_state_dict(shown.state_dict())
    for found, wanted in zip((states, vectors), expected(), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_a_date_is_hidden_with_the_id_and_shown_with_it() -> None:
    """What an unseen item and a hidden one say of themselves is the same, whenever they came."""
    states, vectors = item_tower(dates=("year",)).eval()()
    shape = ItemShape(6, item_fields=(YEAR,), dim=8, dropout=0.0)
    without = ItemTower(shape, CODES, {"year": YEARS * (CODES != UNSEEN)})
    without.load_state_dict(item_tower().state_dict())
    for found, wanted in zip((states, vectors), without.eval()(), strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)
    hidden, later = (item_tower(dates=("year",), id_dropout=0.999999).train()(torch.tensor([row]))[1] for row in (0, 2))
    assert torch.equal(hidden, later)


def test_ids_are_hidden_in_training_alone_and_at_the_rate_that_is_asked() -> None:
    tower = item_tower(id_dropout=0.5)
    many = torch.zeros(4000, dtype=torch.long)
    plain = tower.eval()(many[:1])[1]
    states = tower.train()(many)[1]
    kept = torch.isclose(states, plain, atol=1e-6).all(dim=1).float().mean()
    assert 0.45 < kept < 0.55
    assert torch.allclose(tower.eval()(many)[1], plain.expand(4000, -1), atol=1e-6)


def test_a_new_item_gets_its_place_from_attributes_once_ids_were_hidden() -> None:
    """Users of even years choose items of even years: an unseen item of an even year ends near them."""
    torch.manual_seed(0)
    items, years = 40, 2
    codes = torch.arange(items + 2) + 2
    codes[-2:] = UNSEEN  # one new item of each year
    year = torch.cat([torch.arange(items) % years, torch.tensor([0, 1])]) + 2
    users = torch.eye(2).repeat(1, 4)
    margins = {}
    for rate in (0.0, 0.3):
        shape = ItemShape(items + 2, item_fields=(Field("year", "item", "numeric", 4),), dim=8, id_dropout=rate)
        tower = ItemTower(shape, codes, {"year": year}).train()
        optimiser = torch.optim.Adam(tower.parameters(), lr=0.01)
        for _ in range(150):
            _, vectors = tower()
            scores = users @ vectors[:items, :8].T + vectors[:items, 8]
            target = (torch.arange(items) % years).eq(torch.arange(years)[:, None]).float() * years / items
            loss = -(target * scores.log_softmax(dim=1)).sum(dim=1).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        new = users @ tower.eval()()[1][items:, :8].detach().T
        margins[rate] = float(new[0, 0] - new[0, 1] + new[1, 1] - new[1, 0])
    assert margins[0.3] > 1.0
    assert margins[0.3] > 2 * margins[0.0]

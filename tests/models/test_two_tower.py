"""The two-tower: one item table, neutral towers at the start, the same vectors in training and serving."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recsys.features.feature_set import Field
from recsys.models.layers.tower import Tower
from recsys.models.sequence_batch import SequenceBatch
from recsys.models.two_tower import TwoTower, TwoTowerShape

GENRES = Field("genres", "item", "list", 6, 3)
YEAR = Field("year", "item", "numeric", 5)
AGE = Field("age", "user", "categorical", 4)
ITEM_CODES = torch.tensor([2, 3, 4, 1, 5, 1], dtype=torch.int32)
"""Six catalogue rows; the fourth and the last were not in training."""
ITEMS = {
    "genres": torch.tensor([[2, 0, 0], [3, 2, 0], [0, 0, 0], [4, 0, 0], [5, 4, 3], [2, 3, 0]]),
    "year": torch.tensor([2, 3, 4, 2, 0, 3]),
}


def two_tower(**changes: object) -> TwoTower:
    torch.manual_seed(0)
    shape = TwoTowerShape(
        **{
            "item_codes": 6,
            "item_fields": (GENRES, YEAR),
            "user_fields": (AGE,),
            "dim": 8,
            "history_length": 5,
            **changes,
        }
    )  # type: ignore[arg-type]
    model = TwoTower(shape, ITEM_CODES, ITEMS)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


@pytest.mark.parametrize("history", ["attention", "recency", "attention+recency", "mean"])
def test_the_served_vector_is_the_last_training_state(history: str) -> None:
    model = two_tower(history=history)
    codes = torch.tensor([[2, 4, 5, 2, 3]])
    user = {"age": torch.tensor([3])}
    table = model.items.history_table()
    trained = model.user_states(table[codes], user)[0, -1]
    served = model.newest_user_states(table[codes], torch.tensor([[5, 4, 3, 2, 1]]), user)[0]
    assert torch.allclose(trained, served, atol=1e-5)


def test_the_history_table_holds_the_item_towers_output_and_one_row_for_all_unseen() -> None:
    model = two_tower()
    table, (states, _) = model.items.history_table(), model.items()
    assert torch.equal(table[0], torch.zeros(8))
    for row, code in enumerate(ITEM_CODES.tolist()):
        if code >= 2:
            assert torch.allclose(table[code], states[row], atol=1e-6)
    assert not torch.allclose(table[1], states[3], atol=1e-3)
    nothing = {"genres": torch.zeros(1, 3, dtype=torch.long), "year": torch.zeros(1, dtype=torch.long)}
    assert torch.allclose(table[1], model.items._states(torch.tensor([1]), nothing)[0], atol=1e-6)


def test_a_tower_starts_as_its_main_field_alone() -> None:
    fields = torch.randn(4, 3, 8)
    assert torch.equal(Tower(3, 8, main=True, dropout=0.0)(fields), fields[:, 0])


def test_field_weights_start_at_one_and_are_named() -> None:
    torch.manual_seed(0)
    shape = TwoTowerShape(item_codes=6, item_fields=(GENRES, YEAR), user_fields=(AGE,), dim=8, history_length=5)
    batch = SequenceBatch(torch.tensor([[0, 1]]), torch.tensor([[0, 1, 2]]), {"age": torch.tensor([2])}, None, 3)
    weights = TwoTower(shape, ITEM_CODES, ITEMS).eval().field_weights(batch)
    assert weights == {
        "item": {"item_id": 1.0, "genres": 1.0, "year": 1.0},
        "user": {"history": 1.0, "age": 1.0},
    }


def test_a_tower_of_one_field_has_no_senet() -> None:
    model = two_tower(item_fields=(), user_fields=())
    assert model.items.tower.senet is None
    assert model.user_tower.senet is None
    assert torch.equal(model.items()[0], model.items.table(ITEM_CODES.long()))  # type: ignore[misc]


def test_cosine_vectors_have_length_one_and_the_temperature_stays_out_of_them() -> None:
    model = two_tower(similarity="cosine")
    items = model.items.catalogue_vectors()
    users = model.user_vectors(torch.randn(3, 8))
    assert torch.allclose(items.norm(dim=-1), torch.ones(6), atol=1e-5)
    assert torch.allclose(users.norm(dim=-1), torch.ones(3), atol=1e-5)
    with torch.no_grad():
        model.log_scale.add_(1.0)
    assert torch.equal(items, model.items.catalogue_vectors())


def test_the_item_bias_is_one_more_coordinate_of_a_dot_product() -> None:
    model = two_tower(similarity="dot")
    (states, vectors), user = model.items(), torch.randn(3, 8)
    scores = model.user_vectors(user) @ vectors.T
    bias: Tensor = model.items.bias(ITEM_CODES.long())[:, 0]
    assert torch.allclose(scores, user @ states.T + bias, atol=1e-5)


def test_some_rows_have_the_vectors_that_all_rows_give_them() -> None:
    model = two_tower()
    rows = torch.tensor([4, 0])
    for some, everything in zip(model.items(rows), model.items(), strict=True):
        assert torch.allclose(some, everything[rows], atol=1e-6)


def test_items_told_by_attributes_alone_need_no_id() -> None:
    model = two_tower(item_id=False)
    assert model.items.table is None
    assert model.items()[0].shape == (6, 8)


@pytest.mark.parametrize("lacking", [{"item_id": False, "item_fields": ()}, {"history": None, "user_fields": ()}])
def test_a_tower_with_nothing_to_see_is_refused(lacking: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="tower needs"):
        two_tower(**lacking)

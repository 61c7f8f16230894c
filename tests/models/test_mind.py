"""MIND: the same interests in training and serving, indifferent to order and padding, one for a short history."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.feature_set import Field
from recsys.models.mind import Mind, MindShape
from recsys.models.sequence_batch import SequenceBatch

AGE = Field("age", "user", "categorical", 4)
CODES, LENGTH, INTERESTS = 30, 20, 4


def mind(**changes: object) -> Mind:
    torch.manual_seed(0)
    shape = MindShape(
        **{  # type: ignore[arg-type]
            "item_codes": CODES,
            "user_fields": (AGE,),
            "dim": 8,
            "history_length": LENGTH,
            "interests": INTERESTS,
            **changes,
        }
    )
    model = Mind(shape, torch.arange(2, CODES, dtype=torch.int32), {})
    for name, parameter in model.named_parameters():
        if name not in ("decay", "profiles.weight"):
            nn.init.normal_(parameter, std=0.4)
    return model.eval()


def served(model: Mind, codes: Tensor, age: Tensor) -> Tensor:
    """(B, K, d) interests of coded histories, the way they are served."""
    user = {"age": torch.full((len(codes),), 3)}
    return model.newest_user_states(model.items.history_table()[codes], age, user).detach()


def test_the_served_interests_are_the_last_training_states() -> None:
    model = mind()
    codes = torch.randint(1, CODES, (3, 9))
    table, user = model.items.history_table(), {"age": torch.full((3,), 3)}
    ages = torch.arange(9, 0, -1).expand(3, 9)
    trained = model.user_states(table[codes], user)
    assert trained.shape == (3, 10, INTERESTS, 8)
    assert torch.allclose(trained[:, -1], served(model, codes, ages), atol=1e-5)
    lengths = torch.tensor([9, 0, 4])
    some = model.states_after(table[codes], lengths, user)
    assert torch.allclose(some, trained[torch.arange(3), lengths], atol=1e-5)
    places = torch.tensor([2, 7])
    assert torch.allclose(model.user_states(table[codes], user, places), trained[:, places], atol=1e-5)


def test_permuting_pairs_of_item_and_age_or_padding_changes_nothing() -> None:
    model = mind()
    codes, ages = torch.randint(1, CODES, (1, 12)), torch.arange(12, 0, -1)[None]
    plain = served(model, codes, ages)
    order = torch.randperm(12)
    assert torch.allclose(plain, served(model, codes[:, order], ages[:, order]), atol=1e-5)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), codes], dim=1)
    padded_ages = torch.cat([torch.zeros(1, 5, dtype=torch.long), ages], dim=1)
    assert torch.allclose(plain, served(model, padded, padded_ages), atol=1e-5)
    order = torch.randperm(17)
    assert torch.allclose(plain, served(model, padded[:, order], padded_ages[:, order]), atol=1e-5)


def test_other_ages_are_another_history() -> None:
    model = mind()
    codes, ages = torch.randint(1, CODES, (1, 12)), torch.arange(12, 0, -1)[None]
    assert not torch.allclose(served(model, codes, ages), served(model, codes, ages.flip(1)), atol=1e-2)


@pytest.mark.parametrize(("length", "interests"), [(0, 1), (1, 1), (3, 1), (4, 2), (7, 2), (8, 3), (16, 4), (20, 4)])
def test_interests_beyond_those_a_history_allows_are_the_first_once_more(length: int, interests: int) -> None:
    model = mind()
    codes = torch.randint(1, CODES, (1, length)) if length else torch.zeros(1, 1, dtype=torch.long)
    ages = torch.arange(length, 0, -1)[None] if length else torch.zeros(1, 1, dtype=torch.long)
    found = served(model, codes, ages)[0]
    for j in range(interests, INTERESTS):
        assert torch.equal(found[j], found[0])
    assert len(torch.unique(found, dim=0)) == interests


def test_histories_without_any_item_and_no_places_at_all_are_computed_too() -> None:
    """A batch of sequences of one item; a worker that no place of a batch falls to."""
    model, user = mind(), {"age": torch.tensor([2, 3])}
    nothing = model.user_states(torch.empty(2, 0, 8), user)
    assert nothing.shape == (2, 1, INTERESTS, 8)
    assert torch.allclose(nothing[:, 0], model.states_after(torch.zeros(2, 3, 8), torch.tensor([0, 0]), user))
    assert model.user_states(torch.randn(2, 3, 8), user, torch.empty(0, dtype=torch.long)).shape == (2, 0, INTERESTS, 8)


def test_only_the_newest_items_are_looked_at() -> None:
    model = mind(history_length=5)
    codes, ages = torch.randint(1, CODES, (1, 9)), torch.arange(9, 0, -1)[None]
    assert torch.equal(served(model, codes, ages), served(model, codes[:, -5:], ages[:, -5:]))


def test_the_users_attributes_belong_to_every_interest() -> None:
    model = mind()
    vectors, ages = model.items.history_table()[torch.randint(1, CODES, (1, 8))], torch.arange(8, 0, -1)[None]
    young, old = (model.newest_user_states(vectors, ages, {"age": torch.tensor([code])})[0] for code in (2, 3))
    assert ((young - old).abs().amax(dim=1) > 1e-3).all()


def test_two_planted_tastes_are_two_interests_each_scoring_its_own_items_highest() -> None:
    """A model whose MLP passes the capsule on: items of both tastes are found, each by an interest of its own."""
    model = mind(dim=16, dropout=0.0, user_fields=(), profiles=1)
    tastes = torch.linalg.qr(torch.randn(16, 2)).Q.T
    with torch.no_grad():
        for parameter in model.mixer.parameters():
            parameter.zero_()
        model.mixer.gain.fill_(1.0)
        model.mixer.others[0].weight[:16] = torch.eye(16)
        model.mixer.others[0].weight[16:32] = -torch.eye(16)
        model.mixer.narrow.weight[:, :16] = torch.eye(16)
        model.mixer.narrow.weight[:, 16:32] = -torch.eye(16)  # gelu(x) - gelu(-x) = x
        model.capsules.shared.weight.copy_(torch.eye(16))
    taste = torch.tensor([0, 1, 0, 0, 1, 1, 0, 1])
    vectors = tastes[taste] + 0.05 * torch.randn(8, 16)
    found = model.newest_user_states(vectors[None], torch.arange(8, 0, -1)[None], {})[0]
    there = F.normalize(found[:3], dim=-1) @ tastes.T
    assert (there.amax(dim=0) > 0.9).all()
    assert set(there[there.amax(dim=1) > 0.9].argmax(dim=1).tolist()) == {0, 1}


def test_field_weights_are_those_of_the_item_tower() -> None:
    year = Field("year", "item", "numeric", 5)
    shape = MindShape(item_codes=6, item_fields=(year,), dim=8, history_length=5)
    model = Mind(shape, torch.tensor([2, 3, 4, 5]), {"year": torch.tensor([2, 3, 4, 0])})
    batch = SequenceBatch(torch.tensor([[0, 1]]), torch.tensor([[0, 1, 2]]), {}, None, 3)
    assert model.field_weights(batch) == {"item": {"item_id": 1.0, "year": 1.0}}
    assert mind().field_weights(batch) == {}


def test_a_target_trains_the_greatest_score_or_the_interest_that_suits_it() -> None:
    users, positives = torch.randn(5, INTERESTS, 9), torch.randn(5, 9)
    assert mind().for_targets(users, positives) is users
    best = (users @ positives[:, :, None])[:, :, 0].argmax(dim=1)
    assert torch.equal(mind(credit="label").for_targets(users, positives), users[torch.arange(5), best])

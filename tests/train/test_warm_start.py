"""Warm start: rows follow their value wherever its code has moved, new ones begin as told, other shapes are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from recsys.columns import ITEM_ID, USER_ID
from recsys.errors import BundleError, ConfigError, FeatureMismatchError
from recsys.features.definition import (
    CategoricalFeature,
    FeatureDefinition,
    HistoryFeature,
    IdFeature,
    ListFeature,
    NumericFeature,
)
from recsys.features.feature_set import FeatureSet
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.train.config import TrainerConfig
from recsys.train.warm_start import NewRows, WarmStartConfig, save_weights, start_from

DEFINITION = FeatureDefinition(
    features=(
        IdFeature(side="item"),
        CategoricalFeature(side="item", name="brand"),
        ListFeature(side="item", name="tags", length=2),
        NumericFeature(side="user", name="age", edges=(20.0, 40.0)),
        HistoryFeature(length=4),
    )
)


def features(clicks: list[int], brands: list[str], definition: FeatureDefinition = DEFINITION) -> FeatureSet:
    items = pl.DataFrame(
        {ITEM_ID: range(len(brands)), "brand": brands, "tags": [[brand[0], "all"] for brand in brands]}
    )
    users = pl.DataFrame({USER_ID: [1], "age": [30]})
    events = pl.DataFrame({USER_ID: [1] * len(clicks), ITEM_ID: clicks})
    return FeatureSet.fit(definition, items=items, users=users, events=events)


def model_of(fitted: FeatureSet, seed: int, **shape: object) -> TwoTower:
    torch.manual_seed(seed)
    sizes = TwoTowerShape(
        item_codes=fitted.items.cardinality,
        item_fields=tuple(f for f in fitted.fields("item") if f.kind != "id"),
        user_fields=tuple(f for f in fitted.fields("user") if f.kind != "id"),
        dim=8,
        history_length=4,
        blocks=1,
    )
    index = torch.arange(fitted.items.cardinality)
    codes = {f.name: torch.zeros((len(index), f.length), dtype=torch.long).squeeze(1) for f in sizes.item_fields}
    model = TwoTower(replace(sizes, **shape), index, codes)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


EARLIER = features([0, 0, 0, 1, 1, 2], ["acme", "acme", "bolt", "corp"])
LATER = features([2, 2, 2, 3, 3, 0], ["corp", "dove", "acme", "corp"])
"""Item 2 is now the most frequent, item 1 gone, item 3 new; brand corp now leads, bolt is gone, dove is new."""


def row(model: TwoTower, name: str, code: int) -> torch.Tensor:
    return dict(model.named_parameters())[name][code].detach()


def test_from_itself_every_weight_is_the_same(tmp_path: Path) -> None:
    source, target = model_of(EARLIER, 0), model_of(EARLIER, 1)
    save_weights(source, tmp_path / "w")
    started = start_from(target, EARLIER, tmp_path / "w", EARLIER)
    for (name, a), b in zip(source.named_parameters(), target.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert (started.items, started.new_items) == (3, 0)


def test_rows_follow_their_value_where_its_code_has_moved(tmp_path: Path) -> None:
    source, target = model_of(EARLIER, 0), model_of(LATER, 1)
    save_weights(source, tmp_path / "w")
    started = start_from(target, LATER, tmp_path / "w", EARLIER)
    assert (started.items, started.new_items) == (3, 1)
    for item in (0, 2):
        new, old = LATER.items.code_of(item), EARLIER.items.code_of(item)
        assert new != old
        for table in ("items.table.weight", "items.bias.weight"):
            assert torch.equal(row(target, table, new), row(source, table, old))
    for name, place, known in (("brand", 0, ("acme", "corp")), ("tags", 1, ("a", "c", "all"))):
        table = f"items.fields.tables.{place}.weight"
        for value in known:
            new, old = (fitted.vocabularies[name].code_of(value) for fitted in (LATER, EARLIER))
            assert torch.equal(row(target, table, new), row(source, table, old)), value
    for code in (0, 1):  # missing and unseen are what they were
        assert torch.equal(row(target, "items.table.weight", code), row(source, "items.table.weight", code))


@pytest.mark.parametrize("new_rows", ["mean", "unseen", "zero", "random"])
def test_a_new_value_begins_as_told(tmp_path: Path, new_rows: NewRows) -> None:
    source, target = model_of(EARLIER, 0), model_of(LATER, 1)
    untrained = row(target, "items.table.weight", LATER.items.code_of(3)).clone()
    save_weights(source, tmp_path / "w")
    start_from(target, LATER, tmp_path / "w", EARLIER, new_rows)
    table = dict(source.named_parameters())["items.table.weight"].detach()
    expected = {"mean": table[2:].mean(dim=0), "unseen": table[1], "zero": torch.zeros(8), "random": untrained}
    assert torch.allclose(row(target, "items.table.weight", LATER.items.code_of(3)), expected[new_rows])


def test_a_bucket_begins_as_the_one_its_middle_lay_in(tmp_path: Path) -> None:
    finer = FeatureDefinition(
        features=tuple(
            NumericFeature(side="user", name="age", edges=(10.0, 25.0, 60.0)) if f.name == "age" else f
            for f in DEFINITION.features
        )
    )
    later = features([0, 1, 2], ["acme"], finer)
    source, target = model_of(EARLIER, 0), model_of(later, 1)
    save_weights(source, tmp_path / "w")
    start_from(target, later, tmp_path / "w", EARLIER)
    table = "user_fields.tables.0.weight"
    for new, old in ((2, 2), (3, 2), (4, 4), (5, 4)):  # up to 10, to 25 (middle 17.5), to 60 (42.5), beyond
        assert torch.equal(row(target, table, new), row(source, table, old)), new


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ({"dim": 4}, r"two_tower.dim = 4: the run to start from has 8 \(.*/w\); make them the same"),
        ({"history": "mean"}, "two_tower.history = mean: the run to start from has attention"),
        ({"heads": 4}, "two_tower.heads = 4: the run to start from has 2"),
        ({"similarity": "cosine"}, "two_tower.similarity = cosine: the run to start from has dot"),
        ({"user_fields": ()}, r"two_tower.user_fields = none: the run to start from has age \(numeric\)"),
    ],
)
def test_another_shape_is_refused_with_what_it_was_and_is(tmp_path: Path, shape: dict[str, object], says: str) -> None:
    save_weights(model_of(EARLIER, 0), tmp_path / "w")
    with pytest.raises(ConfigError, match=says):
        start_from(model_of(EARLIER, 1, **shape), EARLIER, tmp_path / "w", EARLIER)


@pytest.mark.parametrize("length", [2, 4, 7])
@pytest.mark.parametrize(
    ("history", "names"),
    [
        ("attention", ["history.positions.weight"]),
        ("attention+recency", ["history.attention.positions.weight", "history.recency.profiles.weight"]),
    ],
)
def test_a_history_may_be_longer_or_shorter_than_it_was(
    tmp_path: Path, length: int, history: str, names: list[str]
) -> None:
    source, target = (
        model_of(EARLIER, seed, history=history, positions="absolute", history_length=known)
        for seed, known in ((0, 4), (1, length))
    )
    save_weights(source, tmp_path / "w")
    start_from(target, EARLIER, tmp_path / "w", EARLIER)
    for name in names:
        for place in range(length + 1):
            assert torch.equal(row(target, name, place), row(source, name, min(place, 4)))


def test_weights_that_know_none_of_the_items_are_refused(tmp_path: Path) -> None:
    save_weights(model_of(EARLIER, 0), tmp_path / "w")
    others = features([7, 8], ["acme"])
    with pytest.raises(FeatureMismatchError, match="knows none of the 2 items trained on here, such as 7"):
        start_from(model_of(others, 1), others, tmp_path / "w", EARLIER)


def test_what_does_not_touch_the_weights_may_change(tmp_path: Path) -> None:
    source, target = model_of(EARLIER, 0), model_of(EARLIER, 1, dropout=0.5, temperature=0.2)
    save_weights(source, tmp_path / "w")
    start_from(target, EARLIER, tmp_path / "w", EARLIER)
    assert target.items.table is not None
    assert source.items.table is not None
    assert torch.equal(target.items.table.weight[2:], source.items.table.weight[2:])


def test_weights_that_are_not_whole_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w"
    for damage in (lambda: None, lambda: path.write_bytes(b"{}"), lambda: _cut(path)):
        damage()
        with pytest.raises(BundleError, match=f"{path}: not the weights of a model, or not whole"):
            start_from(model_of(EARLIER, 1), EARLIER, path, EARLIER)


def _cut(path: Path) -> None:
    save_weights(model_of(EARLIER, 0), path)
    path.write_bytes(path.read_bytes()[:-100])


def test_a_warm_start_takes_its_share_of_the_epochs_and_at_least_one() -> None:
    config = TrainerConfig(max_epochs=20)
    assert WarmStartConfig(epochs=0.25).applied(config) == TrainerConfig(max_epochs=5)
    assert WarmStartConfig(epochs=0.01).applied(config).max_epochs == 1

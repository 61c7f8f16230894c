import pytest
from pydantic import ValidationError

from recsys.config import parse_config
from recsys.errors import ConfigError
from recsys.features.definition import (
    CategoricalFeature,
    FeatureDefinition,
    HistoryFeature,
    IdFeature,
    NumericFeature,
    OverlapFeature,
)

ALL = FeatureDefinition(
    features=(
        IdFeature(side="item"),
        CategoricalFeature(name="brand", side="item", source="Marke"),
        NumericFeature(name="age", side="user", edges=(18.0, 65.0)),
        HistoryFeature(length=50),
        OverlapFeature(name="same_brand", source="Marke"),
    )
)


def test_a_definition_survives_json() -> None:
    assert FeatureDefinition.model_validate_json(ALL.model_dump_json()) == ALL


def test_a_definition_is_read_by_the_kind_of_each_feature() -> None:
    parsed = parse_config(
        FeatureDefinition,
        {"features": [{"kind": "id", "side": "user"}, {"kind": "history", "length": 7}]},
        "features.toml",
    )
    assert parsed.features == (IdFeature(side="user"), HistoryFeature(length=7))


def test_an_unknown_kind_or_key_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="magic"):
        parse_config(FeatureDefinition, {"features": [{"kind": "magic"}]}, "features.toml")
    with pytest.raises(ConfigError, match="lenght"):
        parse_config(FeatureDefinition, {"features": [{"kind": "history", "lenght": 7}]}, "features.toml")


def test_two_features_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two features are called 'age'"):
        FeatureDefinition(features=(NumericFeature(name="age", side="user"), NumericFeature(name="age", side="item")))


@pytest.mark.parametrize("name", ["history", "history_age", "item_id", "user_vector"])
def test_an_attribute_cannot_take_the_name_of_a_tensor(name: str) -> None:
    with pytest.raises(ValidationError, match="reserved"):
        FeatureDefinition(features=(CategoricalFeature(name=name, side="item"),))


@pytest.mark.parametrize("name", ["", "2nd", "a b", "größe", "x" * 65])
def test_a_name_is_an_identifier(name: str) -> None:
    with pytest.raises(ValidationError):
        CategoricalFeature(name=name, side="item")


@pytest.mark.parametrize("edges", [(1.0, 1.0), (2.0, 1.0), (float("inf"),), (float("nan"),)])
def test_edges_are_finite_and_increase(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="edges must be"):
        NumericFeature(name="price", side="item", edges=edges)


def test_the_item_id_can_be_left_out_for_cold_items() -> None:
    cold = ALL.without(["item_id"])
    assert cold.id_of("item") is None
    assert [f.name for f in cold.features] == ["brand", "age", "history", "same_brand"]
    with pytest.raises(ConfigError, match="'colour'"):
        ALL.without(["colour"])

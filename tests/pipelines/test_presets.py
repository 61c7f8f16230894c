"""A preset is a configuration like any other: printed, read back, overridden, refused when wrong."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipelines.presets import PRESETS, config_type, load_preset, retriever_sizes, two_tower_sizes
from pipelines.toml_text import to_toml
from recsys.config import override, parse_config, read_toml
from recsys.data.dataset import Counts, Dataset, write_dataset
from recsys.errors import ConfigError
from recsys.features.definition import FeatureDefinition
from recsys.recipes import RECIPES
from recsys.testing.toy import write_toy


@pytest.fixture
def toy(tmp_path: Path) -> Dataset:
    return write_toy(tmp_path / "data")


@pytest.fixture
def pairs(tmp_path: Path) -> Dataset:
    """Users, items and their order, nothing more."""
    events = pl.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": [5, 6, 7, 5, 7, 8], "timestamp_ms": [0, 1, 2] * 2})
    return write_dataset(tmp_path / "pairs", events=events, name="pairs", time="order")


@pytest.mark.parametrize("name", PRESETS)
def test_a_printed_preset_reads_back_as_the_same_configuration(tmp_path: Path, toy: Dataset, name: str) -> None:
    config = load_preset(name, toy)
    file = tmp_path / f"{name}.toml"
    file.write_text(to_toml(config.model_dump(mode="json")))
    assert load_preset(str(file), toy).model_dump() == config.model_dump()
    assert parse_config(config_type(), read_toml(file), str(file)).features == config.features


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_without_data_is_one_to_start_from(tmp_path: Path, name: str) -> None:
    config = load_preset(name, None)
    assert (config.features, config.holdouts) == ("auto", ["last"])
    file = tmp_path / f"{name}.toml"
    file.write_text(to_toml(config.model_dump(mode="json")))
    assert load_preset(str(file), None).model_dump() == config.model_dump()


@pytest.mark.parametrize("name", PRESETS)
def test_order_only_data_are_never_split_by_time(pairs: Dataset, name: str) -> None:
    assert load_preset(name, pairs).holdouts == ["last"]


def test_attributes_become_features_where_they_are_there(toy: Dataset, pairs: Dataset) -> None:
    def features(dataset: Dataset) -> set[str]:
        return {feature.name for feature in load_preset("movielens_1m", dataset).definition(dataset).features}

    assert {"genres", "country", "history"} <= features(toy)
    assert features(pairs) == {"item_id", "history"}


def test_sizes_grow_with_the_data_and_passes_over_them_shrink() -> None:
    shop = two_tower_sizes(Counts(events=5_000, users=300, items=200, by_type={}))
    forum = two_tower_sizes(Counts(events=1_000_000, users=6_000, items=4_000, by_type={}))
    portal = two_tower_sizes(Counts(events=400_000_000, users=3_000_000, items=800_000, by_type={}))
    assert (shop["dim"], forum["dim"], portal["dim"]) == (32, 64, 64)
    assert (shop["max_epochs"], forum["max_epochs"], portal["max_epochs"]) == (50, 20, 3)
    assert (shop["history"], portal["history"]) == ("attention+recency", "recency")
    for sizes in (shop, portal):
        parse_config(RECIPES["two_tower"].config_type, sizes, "sizes")
        parse_config(RECIPES["tdm"].config_type, sizes, "sizes")
    parse_config(RECIPES["mind"].config_type, retriever_sizes(Counts(events=10, users=3, items=4, by_type={})), "sizes")


def test_every_recipe_has_its_settings_under_its_name(toy: Dataset) -> None:
    config = load_preset("demo", toy)
    assert {name: type(config.of(name)) for name in RECIPES} == {n: r.config_type for n, r in RECIPES.items()}
    assert override(config, ["two_tower.dim=32"]).of("two_tower").dim == 32  # type: ignore[attr-defined]


def test_a_file_may_say_little_and_leaves_features_to_the_data(tmp_path: Path, toy: Dataset) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('recipes = ["popularity"]\n')
    config = load_preset(str(file), toy)
    assert config.preset == "mine"
    assert config.features == "auto"
    assert isinstance(config.definition(toy), FeatureDefinition)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("recipe = 1", "there is no setting 'recipe'"),
        ("[two_tower]\ndims = 3", r"there is no setting 'two_tower\.dims'; there are: .*dim,"),
        ("[two_tower]\ndim = -3", r"two_tower\.dim = -3"),
        ("holdouts = []", "holdouts"),
        ("= 3", "not TOML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_its_key(tmp_path: Path, toy: Dataset, content: str, says: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=says) as refusal:
        load_preset(str(file), toy)
    assert str(file) in str(refusal.value)


def test_a_preset_that_does_not_exist_is_refused_with_those_that_do(toy: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"a preset \(demo, movielens_1m, marketplace, auto\) nor a TOML file"):
        load_preset("movielens", toy)
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        load_preset("missing.toml", toy)

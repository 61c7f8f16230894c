"""Presets: plain functions from a dataset, where there is one yet, to the configuration of a whole training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, JsonValue, create_model

from recsys.config import Config, parse_config, read_toml
from recsys.data.dataset import Counts, Dataset
from recsys.errors import ConfigError
from recsys.features.auto import infer_definition
from recsys.features.definition import FeatureDefinition
from recsys.recipes import RECIPES

SMALL_CATALOGUE: Final = 1_000
STEPS_A_PASS: Final = 400
FEWEST_AT_ONCE, MOST_AT_ONCE = 8, 256
MANY_EVENTS: Final = 20_000_000
EVENTS_TO_LEARN_FROM: Final = 50_000_000
"""Events that training sees in all its passes, within the bounds on their number."""
LEAST_EPOCHS, MOST_EPOCHS = 3, 20
LEAST_STEPS, MOST_EPOCHS_OF_FEW_STEPS = 2_000, 50
"""What a log whose passes are a few steps each is given instead."""


class PipelineConfig(Config):
    """What a training run does; beside these fields, the configuration of every recipe under its name.

    Attributes:
        preset: where the settings came from, for people.
        holdouts: a held-out twin is fitted for each: "none", "last" or "time:<share>".
        refit: fit once more on everything given, for as many epochs as the first twin chose, and
            publish that; else the first twin is published.
        recipes: what to fit; what these need is fitted too.
        features: the features, or "auto": inferred from the columns of the dataset.
        seed: of splits, weights and batches.
        threads: cores of a local run, 0 = all that the process may use.
        light: recipes that are content with one core; all others get a machine's cores and, where
            there is one, its GPU.
        workers: processes that each fit with a gradient is divided among, with the cluster's cores or one GPU each;
            the others are fitted by one.
    """

    preset: str = "custom"
    holdouts: list[str] = Field(default=["last"], min_length=1)
    refit: bool = False
    recipes: list[str] = Field(default=["popularity", "item_knn", "two_tower", "mind", "tdm"], min_length=1)
    features: FeatureDefinition | Literal["auto"] = "auto"
    seed: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)
    light: list[str] = Field(default=["popularity", "item_knn"])
    workers: int = Field(default=1, ge=1)

    def of(self, recipe: str) -> Config:
        """The configuration of a recipe."""
        config = getattr(self, recipe)
        assert isinstance(config, Config)
        return config

    def definition(self, dataset: Dataset) -> FeatureDefinition:
        """The features, inferred from the dataset where they are "auto"."""
        return infer_definition(dataset) if self.features == "auto" else self.features

    def replaced(
        self,
        *,
        holdouts: Sequence[str] = (),
        refit: bool | None = None,
        recipes: Sequence[str] = (),
        workers: int | None = None,
    ) -> PipelineConfig:
        """The same with what is given in place of its own."""
        update: dict[str, Any] = {}
        if holdouts:
            update["holdouts"] = list(holdouts)
        if refit is not None:
            update["refit"] = refit
        if recipes:
            update["recipes"] = list(recipes)
        if workers is not None:
            update["workers"] = workers
        return self.model_copy(update=update)

    def recorded(self, recipes: Sequence[str]) -> dict[str, JsonValue]:
        """What a manifest records: the settings that decide what is in a bundle."""
        settings: dict[str, JsonValue] = {"preset": self.preset, "seed": self.seed, "recipes": list(recipes)}
        return settings | {name: self.of(name).model_dump(mode="json") for name in recipes}


def config_type() -> type[PipelineConfig]:
    """PipelineConfig with a field for every recipe of the table, holding its defaults.

    Made from the table, so that a new recipe needs no line here.
    """
    fields: dict[str, Any] = {
        name: (recipe.config_type, Field(default_factory=recipe.config_type)) for name, recipe in RECIPES.items()
    }
    return create_model("PipelineConfig", __base__=PipelineConfig, **fields)


def demo(dataset: Dataset | None) -> PipelineConfig:
    """Everything once, in minutes on two cores: two twins where times are real, then the refit.

    A core a fit: steps this small gain nothing from a second one, and the fits of the branches run beside each other.
    """
    steps = {"batch_users": 8, "ema": 0.99}
    models = {
        "two_tower": {**steps, "max_epochs": 7},
        "mind": {**steps, "max_epochs": 6},
        "tdm": {**steps, "max_epochs": 5, "history": "recency", "round_epochs": 1, "round_places": 0.2},
    }
    every = ["popularity", "item_knn", *models]
    return _configured("demo", dataset, {"holdouts": _holdouts(dataset), "refit": True, "light": every, **models})


def movielens_1m(dataset: Dataset | None) -> PipelineConfig:
    """The settings of the published figures on ML-1M, leave-one-out; attributes are used when there."""
    steps = {"batch_users": 16, "ema": 0.998}
    models = {name: {**steps, "max_epochs": epochs} for name, epochs in (("two_tower", 26), ("mind", 30), ("tdm", 26))}
    return _configured("movielens_1m", dataset, {"holdouts": ["last"], **models})


def marketplace(dataset: Dataset | None) -> PipelineConfig:
    """For simulated data: sizes from their size, tested on the newest events, beside the ceiling of the truth."""
    models = {name: {**sizes, "max_epochs": 8} for name, sizes in _sizes(dataset).items()}
    return _configured("marketplace", dataset, {"holdouts": _holdouts(dataset)[-1:], **models})


def auto(dataset: Dataset | None) -> PipelineConfig:
    """For a log never seen before: features from its columns, sizes from its size, tested on its newest events."""
    return _configured("auto", dataset, {"holdouts": _holdouts(dataset)[-1:], "refit": True, **_sizes(dataset)})


def two_tower_sizes(counts: Counts) -> dict[str, Any]:
    """Sizes of the two-tower for a dataset: those of any retriever, and an encoder that gets through the log."""
    return {**retriever_sizes(counts), "history": "attention+recency" if counts.events < MANY_EVENTS else "recency"}


def retriever_sizes(counts: Counts) -> dict[str, Any]:
    """Sizes of a retriever for a dataset: what is little learnt from gets a small model, what is much fewer passes.

    Thresholds are rules of thumb: some thirty events for each weight of an item's vector at the small end, a number
    of passes that keeps training within hours on a few cores at the large end. Batches are small where users are few:
    steps are what a small log lacks (docs/results.md). The index chooses for itself.
    """
    batch_users = max(FEWEST_AT_ONCE, min(MOST_AT_ONCE, counts.users // STEPS_A_PASS))
    return {
        "dim": 32 if counts.items < SMALL_CATALOGUE else 64,
        "batch_users": batch_users,
        "ema": 0.99,
        "id_dropout": 0.1,
        "max_epochs": _passes(counts.events, steps=-(-counts.users // batch_users)),
    }


def _passes(events: int, steps: int) -> int:
    """Epochs for a log of so many events, at so many steps each."""
    most = max(MOST_EPOCHS, min(MOST_EPOCHS_OF_FEW_STEPS, LEAST_STEPS // max(steps, 1)))
    return max(LEAST_EPOCHS, min(most, EVENTS_TO_LEARN_FROM // max(events, 1)))


PRESETS: Final[dict[str, Callable[[Dataset | None], PipelineConfig]]] = {
    "demo": demo,
    "movielens_1m": movielens_1m,
    "marketplace": marketplace,
    "auto": auto,
}


def load_preset(name: str, dataset: Dataset | None) -> PipelineConfig:
    """A preset by its name, or the configuration in a TOML file.

    Without a dataset a preset leaves the features to be inferred and sizes at their defaults.

    Raises:
        ConfigError: when it is neither; names the presets, or the key of the file that is wrong.
    """
    if name in PRESETS:
        return PRESETS[name](dataset)
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        raise ConfigError(f"--preset {name}: neither a preset ({', '.join(PRESETS)}) nor a TOML file")
    return parse_config(config_type(), {"preset": path.stem, **read_toml(path)}, str(path))


def _configured(name: str, dataset: Dataset | None, values: dict[str, Any]) -> PipelineConfig:
    features = "auto" if dataset is None else infer_definition(dataset).model_dump()
    settings = {"preset": name, "features": features, **values}
    return parse_config(config_type(), settings, f"preset {name}")


def _sizes(dataset: Dataset | None) -> dict[str, dict[str, Any]]:
    """Sizes by model; none without a dataset."""
    if dataset is None:
        return {"two_tower": {}, "mind": {}, "tdm": {}}
    counts = dataset.info.counts
    encoder = two_tower_sizes(counts)
    return {"two_tower": encoder, "mind": retriever_sizes(counts), "tdm": encoder}


def _holdouts(dataset: Dataset | None) -> list[str]:
    return ["last", "time:0.1"] if dataset is not None and dataset.info.time == "real" else ["last"]

"""Warm start: a retriever begins with the weights of an earlier run, each row of a table found by its raw value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field as Bound
from torch import Tensor, nn

from recsys.columns import ITEM_ID
from recsys.config import Config
from recsys.errors import BundleError, ConfigError, FeatureMismatchError
from recsys.features.buckets import bucket_codes
from recsys.features.feature_set import FeatureSet, Field
from recsys.features.vocabulary import FIRST, Vocabulary
from recsys.models.item_tower import UNSEEN
from recsys.models.retriever import Retriever, RetrieverShape
from recsys.train.checkpoint import load_checkpoint, save_checkpoint
from recsys.train.config import TrainerConfig
from recsys.types import Ids

TrainerT = TypeVar("TrainerT", bound=TrainerConfig)

WEIGHTS: Final = "weights.safetensors"
"""The file of a component that a later run can start from."""

NewRows: TypeAlias = Literal["mean", "unseen", "zero", "random"]
"""What a row begins with whose value the earlier run did not know: the mean of the known ones, the row of the unseen,
nothing (an item then is its attributes), or what an untrained model has."""

_NO_ROW: Final = -1
_PLACES: Final = ("positions.weight", "profiles.weight", "decay")
"""How the names of parameters end that have a row a place of the history, or an age."""
_FREE: Final = (
    *("item_codes", "history_length", "temperature", "dropout", "id_dropout", "dates", "recompute"),
    *("interests", "routing", "iterations", "credit", "power"),
)
"""Settings that weights fit whatever they are, or that fit row by row."""


class WarmStartConfig(Config):
    """How a fit goes on from an earlier run's weights.

    Attributes:
        new_rows: what the rows of values begin with that the earlier run did not know (see `NewRows`).
        epochs: upper bound of the epochs over that of a start from scratch; the learning rate rises and falls within
            it, to the same peak: lower ones, tried, ended no better.
    """

    new_rows: NewRows = "zero"
    epochs: float = Bound(default=0.5, gt=0, le=1)

    def applied(self, config: TrainerT) -> TrainerT:
        """The configuration of a fit that starts warm."""
        return config.model_copy(update={"max_epochs": max(1, round(self.epochs * config.max_epochs))})


@dataclass(frozen=True, slots=True)
class Started:
    """What a warm start took over.

    Attributes:
        items, new_items: rows of the item table, and those among them that the earlier run did not know.
    """

    items: int
    new_items: int


def save_weights(model: Retriever, path: Path) -> None:
    """Writes the weights and, as its metadata, the shape that they belong to."""
    save_checkpoint(path, dict(model.named_parameters()), {"shape": _settings(model.shape)})


def start_from(
    model: Retriever,
    features: FeatureSet,
    path: Path,
    earlier: FeatureSet,
    new_rows: NewRows = "zero",
    recipe: str | None = None,
) -> Started:
    """Puts an earlier run's weights into a model; only tables may differ in size.

    Of a history that is longer now, the new places begin as the last one that was known.

    Args:
        model: untrained, on the CPU.
        features: what its tables are coded with.
        path: weights that `save_weights` wrote.
        earlier: what those tables are coded with.
        new_rows: what the rows of new values begin with.
        recipe: whose settings they are, if not those of the recipe named like the model.

    Raises:
        BundleError: when the file is not whole.
        ConfigError: when the earlier model had another shape; names the setting, what it was and what it is.
        FeatureMismatchError: when it knew none of these items.
    """
    weights, shape = _load(path)
    _refuse_other_shape(recipe or model.name, _settings(model.shape), shape, path)
    codes = _earlier_codes(ITEM_ID, features, earlier)
    started = Started(len(codes) - FIRST, int((codes == _NO_ROW).sum()))
    if 0 < started.items == started.new_items:
        raise FeatureMismatchError(
            f"{path}: knows none of the {started.items:,} items trained on here, such as {features.items.values[0]}; "
            "was it made from other data? Train from scratch"
        )
    tables = dict(_tables(model.shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tables:
                rows = torch.from_numpy(_earlier_codes(tables[name], features, earlier))
                _fill(parameter, weights[name], rows, new_rows)
            elif name.endswith(_PLACES):
                parameter.copy_(weights[name][torch.arange(len(parameter)).clamp(max=len(weights[name]) - 1)])
            else:
                parameter.copy_(weights[name])
    return started


def _tables(shape: RetrieverShape) -> Iterator[tuple[str, str]]:
    """Names of the parameters with a row a value, and the feature whose values these are."""
    yield "items.table.weight", ITEM_ID
    yield "items.bias.weight", ITEM_ID
    for side, attributes in (("items.fields", shape.item_fields), ("user_fields", shape.user_fields)):
        for place, field in enumerate(attributes):
            yield f"{side}.tables.{place}.weight", field.name


def _fill(parameter: nn.Parameter, weights: Tensor, rows: Tensor, new_rows: NewRows) -> None:
    """Row i of `parameter` becomes row rows[i] of `weights`, or that of a new value where that is -1."""
    known = rows >= 0
    parameter[known] = weights[rows[known]]
    if not known.all() and new_rows != "random":
        parameter[~known] = _first_row(weights, new_rows)


def _first_row(weights: Tensor, new_rows: NewRows) -> Tensor:
    if new_rows == "mean" and len(weights) > FIRST:
        return weights[FIRST:].mean(dim=0)
    return torch.zeros_like(weights[0]) if new_rows == "zero" else weights[UNSEEN]


def _earlier_codes(name: str, features: FeatureSet, earlier: FeatureSet) -> NDArray[np.int64]:
    """(codes,) the code that each of a feature's values had in the earlier feature set, -1 = none."""
    if name in features.edges:
        found = _bucket_codes(features.edges[name], earlier.edges[name])
    else:
        found = _vocabulary_codes(features.vocabularies[name], earlier.vocabularies[name])
    return np.concatenate([np.arange(FIRST), found])  # missing and unseen are what they were


def _vocabulary_codes(values: Vocabulary, earlier: Vocabulary) -> Ids:
    if values.type is not earlier.type:
        return np.full(len(values), _NO_ROW)
    known = pl.DataFrame({"value": earlier.values, "code": np.arange(FIRST, earlier.cardinality)})
    found = pl.DataFrame({"value": values.values}).join(known, on="value", how="left", maintain_order="left")
    return found["code"].fill_null(_NO_ROW).to_numpy()


def _bucket_codes(edges: Sequence[float], earlier: Sequence[float]) -> Ids:
    """The earlier bucket that the middle of each bucket lay in."""
    inner = np.asarray(edges, np.float64)
    middles = np.concatenate([inner[:1], (inner[1:] + inner[:-1]) / 2, [np.inf]])
    return bucket_codes(middles, earlier).astype(np.int64)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    found = load_checkpoint(path)
    if found is None or "shape" not in found[1]:
        raise BundleError(f"{path}: not the weights of a model, or not whole; restore the file, or train from scratch")
    return found[0], found[1]["shape"]


def _settings(shape: RetrieverShape) -> dict[str, Any]:
    """What weights fit only if it is the same, by the name of the setting; as JSON has it."""
    settings = {f.name: getattr(shape, f.name) for f in fields(shape) if f.name not in _FREE}
    return settings | {name: _described(settings[name]) for name in ("item_fields", "user_fields")}


def _described(fields: Sequence[Field]) -> list[str]:
    return [f"{field.name} ({field.kind})" for field in fields]


def _refuse_other_shape(name: str, now: dict[str, Any], earlier: dict[str, Any], path: Path) -> None:
    for setting, value in now.items():
        if value != earlier.get(setting):
            raise ConfigError(
                f"{name}.{setting} = {_shown(value)}: the run to start from has {_shown(earlier.get(setting))} "
                f"({path}); make them the same, or train without --warm-start"
            )


def _shown(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)

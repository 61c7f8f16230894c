"""The fitted definition: vocabularies and bucket edges, with one hash over all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import polars as pl
from pydantic import ValidationError

from recsys.columns import ITEM_ID, USER_ID
from recsys.errors import BundleError, DataError
from recsys.features.buckets import cardinality_of_edges, quantile_edges
from recsys.features.definition import (
    AttributeFeature,
    CategoricalFeature,
    Feature,
    FeatureDefinition,
    HistoryFeature,
    IdFeature,
    ListFeature,
    NumericFeature,
    OverlapFeature,
    Side,
)
from recsys.features.values import ValueType, canonical_expression, missing_expression, number_expression
from recsys.features.vocabulary import Vocabulary
from recsys.files import write_text

FILE: Final = "feature_set.json"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Field:
    """What a model needs to know of one encoded array.

    Attributes:
        name: key of the array.
        side: "user", "item" or "cross".
        kind: kind of the feature: "id", "categorical", "numeric", "list", "history", "overlap".
        cardinality: rows of its embedding table, codes 0 (missing) and 1 (unseen) included.
        length: columns of the array: 1 for a scalar, else the length of the list or history.
    """

    name: str
    side: Side
    kind: str
    cardinality: int
    length: int = 1


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """A definition with all that fitting found; immutable.

    Attributes:
        definition: the features.
        vocabularies: by feature name. That of `item_id` is always there, even where the definition
            leaves the id out: the history and the catalogue are encoded with it.
        edges: (E,) of each bucketised feature, by name.
    """

    definition: FeatureDefinition
    vocabularies: Mapping[str, Vocabulary]
    edges: Mapping[str, tuple[float, ...]]

    @classmethod
    def fit(
        cls, definition: FeatureDefinition, *, items: pl.DataFrame, users: pl.DataFrame, events: pl.DataFrame
    ) -> FeatureSet:
        """Counts values and takes quantiles.

        Args:
            definition: the features.
            items: item attributes, one row an item; attribute values are counted over it.
            users: user attributes, one row a user.
            events: the training positives (`item_id`, `user_id`); ids are counted over them.

        Raises:
            DataError: when a feature's column is missing or is not of a type that fits its kind.
        """
        frames = {"item": items, "user": users}
        vocabularies = {ITEM_ID: _fit_ids(definition.id_of("item") or IdFeature(side="item"), events)}
        if (user_id := definition.id_of("user")) is not None:
            vocabularies[USER_ID] = _fit_ids(user_id, events)
        edges: dict[str, tuple[float, ...]] = {f.name: f.edges for f in definition.cross}
        for side in ("item", "user"):
            for feature in definition.attributes(side):
                column = _column(frames[side], feature)
                if isinstance(feature, NumericFeature):
                    edges[feature.name] = _fit_edges(feature, column)
                else:
                    vocabularies[feature.name] = _fit_values(feature, column)
        for cross in definition.cross:
            _column(items, cross)
        return cls(definition, vocabularies, edges)

    @property
    def items(self) -> Vocabulary:
        """Item ids seen in training, the vocabulary of the history."""
        return self.vocabularies[ITEM_ID]

    def fields(self, side: Side) -> tuple[Field, ...]:
        """The encoded arrays of a side in the order of the definition, the history not among them."""
        return tuple(
            self._field(f) for f in self.definition.features if f.side == side and not isinstance(f, HistoryFeature)
        )

    @property
    def history(self) -> Field | None:
        """The history: item codes (B, length); its age has the same shape and cardinality length + 1."""
        feature = self.definition.history
        return None if feature is None else self._field(feature)

    def _field(self, feature: Feature) -> Field:
        if isinstance(feature, HistoryFeature):
            return Field(feature.name, feature.side, feature.kind, self.items.cardinality, feature.length)
        if isinstance(feature, NumericFeature | OverlapFeature):
            return Field(feature.name, feature.side, feature.kind, cardinality_of_edges(self.edges[feature.name]))
        length = feature.length if isinstance(feature, ListFeature) else 1
        return Field(feature.name, feature.side, feature.kind, self.vocabularies[feature.name].cardinality, length)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over definition, vocabularies and edges: equal codes have equal hashes."""
        return hashlib.sha256(_canonical_json(self._content()).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "definition": self.definition.model_dump(mode="json"),
            "vocabularies": {
                name: {"type": v.type.value, "size": len(v), "hash": v.hash} for name, v in self.vocabularies.items()
            },
            "edges": {name: list(edges) for name, edges in self.edges.items()},
        }

    def save(self, directory: Path) -> None:
        """Writes `feature_set.json` and one file a vocabulary; the JSON comes last."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, vocabulary in self.vocabularies.items():
            vocabulary.write(directory / f"{name}{vocabulary.suffix}")
        write_text(directory / FILE, json.dumps({**self._content(), "hash": self.hash}, indent=1, ensure_ascii=False))

    @classmethod
    def open(cls, directory: Path) -> FeatureSet:
        """Reads a saved feature set and checks every hash.

        Raises:
            BundleError: names the file that is missing, altered or of another format.
        """
        path = directory / FILE
        content = _read_json(path)
        try:
            definition = FeatureDefinition.model_validate(content["definition"])
            edges = {name: tuple(map(float, values)) for name, values in content["edges"].items()}
            described = {
                name: (ValueType(entry["type"]), str(entry["hash"])) for name, entry in content["vocabularies"].items()
            }
            expected = content["hash"]
        except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
            raise BundleError(f"{path}: not a feature set ({error}); fit or fetch it again") from None
        vocabularies = {name: _open_vocabulary(directory, name, *entry) for name, entry in described.items()}
        feature_set = cls(definition, vocabularies, edges)
        if feature_set.hash != expected:
            raise BundleError(f"{path}: its content does not have the hash it names; fit or fetch it again")
        return feature_set


def _open_vocabulary(directory: Path, name: str, kind: ValueType, expected: str) -> Vocabulary:
    path = directory / f"{name}{'.npy' if kind is ValueType.INTEGER else '.arrow'}"
    vocabulary = Vocabulary.read(kind, path)
    if vocabulary.hash != expected:
        raise BundleError(f"{path}: its content does not have the hash that {FILE} names; fit or fetch it again")
    return vocabulary


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BundleError(f"{path}: not JSON ({error}); fit or fetch the feature set again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{path}: not a feature set of format {FORMAT}; fit it again with this version")
    return content


def _canonical_json(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _column(frame: pl.DataFrame, feature: AttributeFeature | OverlapFeature) -> pl.Series:
    if feature.column not in frame.columns:
        side = "item" if isinstance(feature, OverlapFeature) else feature.side
        raise DataError(
            f"feature {feature.name!r} reads the {side} column {feature.column!r}, which is not there; "
            f"there are: {', '.join(frame.columns)}"
        )
    return frame[feature.column]


def _fit_ids(feature: IdFeature, events: pl.DataFrame) -> Vocabulary:
    ids = events[feature.column].cast(pl.Int64)
    return Vocabulary.fit(ValueType.INTEGER, ids, min_count=feature.min_count, max_size=feature.max_size)


def _fit_values(feature: CategoricalFeature | ListFeature, column: pl.Series) -> Vocabulary:
    values = column
    if isinstance(column.dtype, pl.List | pl.Array):
        if isinstance(feature, CategoricalFeature):
            raise DataError(f"feature {feature.name!r}: column {feature.column!r} holds lists; use kind = 'list'")
        values = column.explode()
    kind = _value_type(feature, values)
    frame = values.rename("value").to_frame()
    missing = missing_expression(pl.col("value"), values.dtype)
    canonical = frame.filter(~missing).select(canonical_expression(pl.col("value"), values.dtype, kind).alias("value"))
    return Vocabulary.fit(kind, canonical.to_series(), min_count=feature.min_count, max_size=feature.max_size)


def _value_type(feature: CategoricalFeature | ListFeature, values: pl.Series) -> ValueType:
    """The canonical type of a column's values.

    Raises:
        DataError: for fractions, dates and nested values.
    """
    dtype = values.dtype
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return ValueType.STRING
    if dtype == pl.Boolean:
        return ValueType.INTEGER
    if dtype.is_integer():
        fits = values.cast(pl.Int64, strict=False).null_count() == values.null_count()
        return ValueType.INTEGER if fits else ValueType.STRING
    if dtype.is_float() or dtype.is_decimal():
        numbers = values.cast(pl.Float64).fill_nan(None).drop_nulls()
        if (numbers == numbers.floor()).all():
            return ValueType.INTEGER
        raise DataError(f"feature {feature.name!r}: column {feature.column!r} holds fractions; use kind = 'numeric'")
    hint = "use kind = 'numeric'" if dtype.is_temporal() else "leave it out"
    raise DataError(f"feature {feature.name!r}: column {feature.column!r} holds {dtype}; {hint}")


def _fit_edges(feature: NumericFeature, column: pl.Series) -> tuple[float, ...]:
    if isinstance(column.dtype, pl.List | pl.Array):
        raise DataError(f"feature {feature.name!r}: column {feature.column!r} holds lists; use kind = 'list'")
    if feature.edges is not None:
        return feature.edges
    numbers = column.rename("value").to_frame().select(number_expression(pl.col("value"), column.dtype).alias("value"))
    return quantile_edges(numbers["value"].drop_nulls().to_numpy(), feature.buckets)

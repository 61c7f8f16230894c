"""What a feature is: the declarative, immutable definition that training and serving share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import isfinite
from typing import Annotated, ClassVar, Final, Literal, Self, TypeAlias

from pydantic import Field as Bound
from pydantic import field_validator, model_validator

from recsys.columns import ITEM_ID, USER_ID
from recsys.config import Config
from recsys.errors import ConfigError

Side: TypeAlias = Literal["user", "item", "cross"]
EntitySide: TypeAlias = Literal["user", "item"]

HISTORY: Final = "history"
HISTORY_AGE: Final = "history_age"
RESERVED_NAMES: Final = frozenset(
    {HISTORY, HISTORY_AGE, ITEM_ID, USER_ID, "history_vectors", "user_vector", "item_vector"}
)
"""Names that ids, histories and the tensors of the towers have."""

FeatureName: TypeAlias = Annotated[str, Bound(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
"""A name is also the name of a tensor and of an embedding table: an identifier."""


def _increasing(edges: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Refuses edges that do not bound buckets."""
    if edges is None:
        return None
    if not all(isfinite(edge) for edge in edges):
        raise ValueError("edges must be finite")
    if any(low >= high for low, high in pairwise(edges)):
        raise ValueError("edges must be strictly increasing")
    return edges


class _Vocabularied(Config):
    """What every feature with a vocabulary can say about its size.

    Attributes:
        min_count: values counted less often than this are left out (they encode as unseen).
        max_size: at most this many values, the most frequent; None = all.
    """

    min_count: int = Bound(default=1, ge=1)
    max_size: int | None = Bound(default=None, ge=1)


class IdFeature(_Vocabularied):
    """The id of the item or of the user; its vocabulary holds the ids of the training positives.

    Left out on the item side, an item is told by its attributes alone, which serves cold items; the
    history then still has its own vocabulary of item ids.
    """

    kind: Literal["id"] = "id"
    side: EntitySide

    @property
    def name(self) -> str:
        """Name of the encoded array: the id column."""
        return self.column

    @property
    def column(self) -> str:
        """`item_id` or `user_id`."""
        return ITEM_ID if self.side == "item" else USER_ID


class _Attribute(Config):
    """A feature read from one column of `items.parquet` or `users.parquet`.

    Attributes:
        name: what the encoded array, the embedding table and the ONNX input are called.
        side: whose attribute it is.
        source: the column, where it is not called `name`.
    """

    name: FeatureName
    side: EntitySide
    source: str | None = None

    @property
    def column(self) -> str:
        """The column that holds the raw values."""
        return self.source or self.name


class CategoricalFeature(_Attribute, _Vocabularied):
    """One value of a vocabulary: strings, integers, booleans, or floats that are all whole."""

    kind: Literal["categorical"] = "categorical"


class NumericFeature(_Attribute):
    """A number as the bucket it falls in; a date counts as its milliseconds since 1970 (UTC).

    Attributes:
        buckets: how many, on the quantiles of the column at fitting.
        edges: explicit edges in place of quantiles; bucket k holds edge[k-1] < value <= edge[k].
    """

    kind: Literal["numeric"] = "numeric"
    buckets: int = Bound(default=16, ge=2, le=1024)
    edges: tuple[float, ...] | None = None

    _check_edges = field_validator("edges")(_increasing)


class ListFeature(_Attribute, _Vocabularied):
    """The first `length` values of a list-valued column, right-padded with 0."""

    kind: Literal["list"] = "list"
    length: int = Bound(default=8, ge=1, le=1024)


class HistoryFeature(Config):
    """The newest `length` items that the user clicked or converted, oldest to newest, left-padded.

    Beside it goes `history_age`: 1 = the newest item, 2 = the one before, 0 = padding.
    """

    kind: Literal["history"] = "history"
    length: int = Bound(default=200, ge=1, le=10_000)
    side: ClassVar[EntitySide] = "user"
    name: ClassVar[str] = HISTORY


class OverlapFeature(Config):
    """How many items of the user's history share a value of an item column with the candidate.

    The count goes into buckets as a NumericFeature does. It is 0 (missing) where the candidate has
    no value or the user no history.

    Attributes:
        source: the item column, scalar or list, where it is not called `name`.
        length: the newest so many items of the history are looked at.
        edges: of the buckets of the count.
    """

    kind: Literal["overlap"] = "overlap"
    name: FeatureName
    source: str | None = None
    length: int = Bound(default=200, ge=1, le=10_000)
    edges: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    side: ClassVar[Side] = "cross"

    _check_edges = field_validator("edges")(_increasing)

    @property
    def column(self) -> str:
        """The item column that is compared."""
        return self.source or self.name


AttributeFeature: TypeAlias = CategoricalFeature | NumericFeature | ListFeature
CrossFeature: TypeAlias = OverlapFeature
Feature: TypeAlias = Annotated[
    IdFeature | CategoricalFeature | NumericFeature | ListFeature | HistoryFeature | OverlapFeature,
    Bound(discriminator="kind"),
]


class FeatureDefinition(Config):
    """The features of a model, in the order in which its towers take them."""

    features: tuple[Feature, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for feature in self.features:
            if feature.name in seen:
                raise ValueError(f"two features are called {feature.name!r}; give one of them another name")
            if feature.name in RESERVED_NAMES and not isinstance(feature, HistoryFeature | IdFeature):
                raise ValueError(f"{feature.name!r} is a reserved name; name the feature otherwise and set its source")
            seen.add(feature.name)
        return self

    @property
    def history(self) -> HistoryFeature | None:
        """The history, where the definition has one."""
        return next((f for f in self.features if isinstance(f, HistoryFeature)), None)

    def id_of(self, side: EntitySide) -> IdFeature | None:
        """The id feature of a side, where the definition has one."""
        return next((f for f in self.features if isinstance(f, IdFeature) and f.side == side), None)

    def attributes(self, side: EntitySide) -> tuple[AttributeFeature, ...]:
        """The features read from attribute columns of a side."""
        return tuple(
            f
            for f in self.features
            if isinstance(f, CategoricalFeature | NumericFeature | ListFeature) and f.side == side
        )

    @property
    def cross(self) -> tuple[CrossFeature, ...]:
        """The features of a pair (user, candidate)."""
        return tuple(f for f in self.features if isinstance(f, OverlapFeature))

    def without(self, names: Iterable[str]) -> FeatureDefinition:
        """The same definition less the named features, for example `item_id` for cold items.

        Raises:
            ConfigError: when a name is not one of its features.
        """
        left_out = set(names)
        known = {f.name for f in self.features}
        if unknown := sorted(left_out - known):
            raise ConfigError(f"there is no feature {unknown[0]!r} to leave out; there are: {', '.join(sorted(known))}")
        return FeatureDefinition(features=tuple(f for f in self.features if f.name not in left_out))

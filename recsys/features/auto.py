"""A feature definition chosen from the columns of a dataset, with the reason for each choice."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import polars as pl

from recsys.columns import BID, EVENT, ITEM_ID, POSITIVE_EVENTS, TIMESTAMP_MS, TITLE, USER_ID
from recsys.data.dataset import Dataset
from recsys.features.definition import (
    RESERVED_NAMES,
    AttributeFeature,
    CategoricalFeature,
    EntitySide,
    Feature,
    FeatureDefinition,
    HistoryFeature,
    IdFeature,
    ListFeature,
    NumericFeature,
)
from recsys.features.values import missing_expression

MAX_CODES: Final = 32
"""Integers with at most so many values are codes rather than quantities."""
MAX_VALUES: Final = 200_000
"""Size of the largest vocabulary."""
RARE_FROM: Final = 1_000
"""From so many values on, those that occur once are left out."""
MAX_DISTINCT_SHARE: Final = 0.5
"""A column with more distinct values a row tells of items hardly more than their id does."""
TEXT_WORDS: Final = 4.0
"""Mean words a value from which a string is text."""
LEAST_REPEATS: Final = 4
"""How often, on average, a whole number must occur to be taken for a code."""
MAX_LIST: Final = 16
"""Longest list that is kept whole."""
LEAST_BUCKETS: Final = 4
MAX_BUCKETS: Final = 32
ROWS_A_BUCKET: Final = 20
COVERED_USERS: Final = 0.95
"""Share of users whose history is kept whole, within HISTORY_LENGTHS."""
HISTORY_LENGTHS: Final = (20, 200)
"""Shortest and longest history that is chosen."""
TOLD_BEFORE: Final = 0.99
"""Share of the values of a time column that must lie before the first event."""

MAX_NAME: Final = 48
SIDES: Final[tuple[EntitySide, ...]] = ("item", "user")

_CODE_NAME = re.compile(r"(^|_)(id|ids|code|category|cat|brand|type|kind|zip|zipcode|postcode|class|group)$", re.I)
_TIME_NAME = re.compile(r"(^|_)(ms|ts|time|timestamp|date|datetime|at|created|updated|published|signup)$", re.I)
_EPOCH_SECONDS: Final = (10**8, 5 * 10**9)
_EPOCH_MILLISECONDS: Final = (10**11, 5 * 10**12)


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one column.

    Attributes:
        side: "item" or "user".
        column: its name in the dataset.
        feature: what it became, None = left out.
        reason: why, as a clause.
    """

    side: EntitySide
    column: str
    feature: Feature | None
    reason: str

    def __str__(self) -> str:
        what = "left out" if self.feature is None else self.feature.kind
        return f"{self.side} {self.column}: {what} ({self.reason})"


@dataclass(frozen=True, slots=True)
class InferredFeatures:
    """The chosen definition and one decision a column, in the order of the columns."""

    definition: FeatureDefinition
    decisions: tuple[Decision, ...]

    def describe(self) -> str:
        """One line a column: what became of it and why."""
        return "\n".join(map(str, self.decisions))


def infer_definition(dataset: Dataset) -> FeatureDefinition:
    """The features that the columns of a dataset allow; see `infer_features`."""
    return infer_features(dataset).definition


def infer_features(dataset: Dataset) -> InferredFeatures:
    """Chooses features by type and cardinality of the columns.

    Ids of items and the history are always features; ids of users are not: they say nothing of a new
    user, and the history says more of an old one. Few-valued columns become categorical, lists become
    lists, many-valued numbers are cut at quantiles. Constants, free text, second ids, and times that
    could tell of the future are left out.
    """
    item_id, (history, why) = IdFeature(side="item"), _history(dataset)
    decisions = [
        Decision("item", ITEM_ID, item_id, "the item itself; ids unseen in training share one code"),
        Decision("user", USER_ID, None, "says nothing of a new user; the history stands for an old one"),
        Decision("user", history.name, history, why),
    ]
    taken: set[str] = set()
    for side in SIDES:
        frame = dataset.items() if side == "item" else dataset.users()
        for column in frame.drop(ITEM_ID, USER_ID, strict=False):
            name = _free_name(column.name, side, taken)
            feature, reason = _choose(_Column(dataset, side, frame, column), name)
            decisions.append(Decision(side, column.name, feature, reason))
            taken.update([name] if feature else [])
    features = [d.feature for d in decisions if d.feature is not None and d.feature is not history]
    return InferredFeatures(FeatureDefinition(features=(*features, history)), tuple(decisions))


Choice: TypeAlias = tuple[AttributeFeature | None, str]


class _Column:
    """One attribute column with what the choice needs to know of it."""

    def __init__(self, dataset: Dataset, side: EntitySide, frame: pl.DataFrame, column: pl.Series) -> None:
        self.dataset, self.side, self.frame = dataset, side, frame
        self.name, self.dtype = column.name, column.dtype
        self.is_list = isinstance(column.dtype, pl.List | pl.Array)
        self.column = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
        flat = self.column.explode() if self.is_list else self.column
        there = flat.to_frame("value").select(missing_expression(pl.col("value"), flat.dtype)).to_series()
        self.values = flat.filter(~there)
        self.gaps = len(flat) - len(self.values)

    @cached_property
    def distinct(self) -> int:
        """How many different values there are, missing ones not counted."""
        return self.values.n_unique()

    @property
    def is_nearly_unique(self) -> bool:
        """Whether most values occur once."""
        return self.distinct > MAX_CODES and self.distinct > MAX_DISTINCT_SHARE * len(self.values)

    @property
    def is_coded(self) -> bool:
        """Whether numbers repeat as codes do."""
        return self.distinct <= MAX_CODES and self.distinct * LEAST_REPEATS <= len(self.values)

    @cached_property
    def is_whole(self) -> bool:
        """Whether numbers have no fractions."""
        numbers = self.values.cast(pl.Float64)
        return bool((numbers == numbers.floor()).all())

    @cached_property
    def milliseconds(self) -> pl.Series | None:
        """The column as Unix times where it holds times, else None."""
        if self.dtype in (pl.Date, pl.Datetime):
            return self.column.cast(pl.Datetime("ms")).cast(pl.Int64)
        if not self.dtype.is_numeric():
            return None
        numbers = self.values.cast(pl.Float64)  # a narrow integer column cannot be compared with times as it is
        if self.is_whole and numbers.is_between(*_EPOCH_MILLISECONDS).all():
            return self.column.cast(pl.Float64)  # an import makes these of dates, whatever their column is called
        if _TIME_NAME.search(self.name) and numbers.is_between(*_EPOCH_SECONDS).all():
            return self.column.cast(pl.Float64) * 1000
        return None

    def told_before(self, milliseconds: pl.Series) -> float:
        """Share of the times that lie at or before the first event of their item or user."""
        key = ITEM_ID if self.side == "item" else USER_ID
        first = self.dataset.events().group_by(key).agg(pl.col(TIMESTAMP_MS).min()).collect()
        pairs = self.frame.select(key, at=milliseconds).join(first, on=key).drop_nulls()
        return float((pairs["at"] <= pairs[TIMESTAMP_MS]).to_numpy().mean()) if len(pairs) else 1.0


def _choose(column: _Column, name: str) -> Choice:
    """What to make of a column, and why."""
    if column.name == TITLE:
        return None, "free text, shown to people"
    if column.name == BID:
        return None, "what is paid for an item, not what users like in it"
    if not len(column.values):
        return None, "no value"
    if column.distinct == 1 and (column.is_list or not column.gaps):
        return None, f"always {column.values[0]!r}"
    if column.is_list:
        return _choose_list(column, name)
    if column.milliseconds is not None:
        return _choose_time(column, name, column.milliseconds)
    if column.dtype == pl.Boolean:
        return _categorical(column, name, "true or false")
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return _choose_text(column, name)
    if column.dtype.is_numeric():
        return _choose_number(column, name)
    return None, f"{column.dtype} is of no use as a feature"


def _choose_list(column: _Column, name: str) -> Choice:
    inner = column.values.dtype
    if inner.is_float() or inner.is_nested() or inner.is_temporal():
        return None, f"a list of {inner}, not of values that repeat"
    if column.is_nearly_unique:
        return None, f"{column.distinct} values in {len(column.values)} entries: hardly one repeats"
    longest = int(column.column.list.len().drop_nulls().to_numpy().max())
    length = min(longest, MAX_LIST)
    rare, size = _limits(column.distinct)
    feature = ListFeature(
        name=name, side=column.side, source=_source(column, name), length=length, min_count=rare, max_size=size
    )
    kept = f", the first {length} kept" if length < longest else ""
    return feature, f"lists of up to {longest} of {column.distinct} values{kept}"


def _choose_time(column: _Column, name: str, milliseconds: pl.Series) -> Choice:
    if column.dataset.info.time == "order":
        return None, "a time, and the events have only an order to compare it with"
    share = column.told_before(milliseconds)
    if share < TOLD_BEFORE:
        return None, f"a time that lies after the first event in {1 - share:.0%} of rows: it may tell of the future"
    return _numeric(column, name, "a time before the first event, hence the age at any moment")


def _choose_text(column: _Column, name: str) -> Choice:
    if column.distinct > MAX_DISTINCT_SHARE * len(column.values):
        words = column.values.cast(pl.String).str.count_matches(r"\S+").to_numpy().mean()
        if words >= TEXT_WORDS:
            return None, f"free text of {words:.0f} words"
    if column.is_nearly_unique:
        return None, f"{column.distinct} values in {len(column.values)} rows: it says what the id says"
    return _categorical(column, name, f"{column.distinct} values")


def _choose_number(column: _Column, name: str) -> Choice:
    if column.is_whole and _CODE_NAME.search(column.name):
        if column.is_nearly_unique:
            return None, f"another id: {column.distinct} values in {len(column.values)} rows"
        return _categorical(column, name, f"a code with {column.distinct} values")
    if column.is_whole and column.is_coded:
        return _categorical(column, name, f"{column.distinct} whole numbers that repeat")
    return _numeric(column, name, f"{column.distinct} numbers")


def _categorical(column: _Column, name: str, reason: str) -> Choice:
    rare, size = _limits(column.distinct)
    return CategoricalFeature(
        name=name, side=column.side, source=_source(column, name), min_count=rare, max_size=size
    ), reason


def _numeric(column: _Column, name: str, reason: str) -> Choice:
    buckets = max(LEAST_BUCKETS, min(MAX_BUCKETS, len(column.values) // ROWS_A_BUCKET))
    feature = NumericFeature(name=name, side=column.side, source=_source(column, name), buckets=buckets)
    return feature, f"{reason}; up to {buckets} buckets on quantiles"


def _limits(distinct: int) -> tuple[int, int | None]:
    """min_count and max_size of a vocabulary."""
    return (2 if distinct >= RARE_FROM else 1), (MAX_VALUES if distinct > MAX_VALUES else None)


def _source(column: _Column, name: str) -> str | None:
    return None if name == column.name else column.name


def _free_name(column: str, side: EntitySide, taken: set[str]) -> str:
    """An identifier for a column that no other feature has."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", column)[:MAX_NAME]
    name = plain if re.match(r"[A-Za-z_]", plain) else f"{side}_{plain}"
    candidates = itertools.chain((name, f"{side}_{name}"), (f"{side}_{name}_{n}" for n in itertools.count(2)))
    return next(c for c in candidates if c not in taken and c not in RESERVED_NAMES)


def _history(dataset: Dataset) -> tuple[HistoryFeature, str]:
    """As long as the histories of most users are, within bounds."""
    positive = pl.col(EVENT).cast(pl.String).is_in([kind.value for kind in POSITIVE_EVENTS])
    lengths = dataset.events().filter(positive).group_by(USER_ID).len().collect(engine="streaming")["len"]
    most = int(lengths.quantile(COVERED_USERS, "higher") or 0)
    shortest, longest = HISTORY_LENGTHS
    return HistoryFeature(length=min(max(most, shortest), longest)), (
        f"{COVERED_USERS:.0%} of the users have at most {most} clicks and conversions"
    )

"""What a call asks and how it is answered, in arrays of the library: protobuf stops before this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.cascade.answers import ChannelStatus, StageReport
from recsys.ranking.scorer import Stage
from recsys.retrieval.filters import AttributeFilter
from recsys.stores.store import Event
from recsys.types import Floats, Ids, Masks

FEATURE_STORE_FAULT = "feature_store"
"""The entry of `degraded` for a store that is away."""


def _no_ids() -> Ids:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class UserQuery:
    """Whom a call is about.

    Attributes:
        user_id: None for an anonymous caller.
        history: (H,) item ids, oldest first, that replace what the store knows; None = not given.
        key: the string that the user was named by, of which user_id is the hash; None for one named by id.
    """

    user_id: int | None = None
    history: Ids | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RecallQuery:
    """A Recall or Recommend call; the fields are those of the wire.

    Attributes:
        by_key: the field that names items by their string keys, "" for none.
    """

    user: UserQuery
    k: int
    channels: tuple[str, ...] = ()
    exclude: Ids = field(default_factory=_no_ids)
    exclude_seen: bool = True
    filters: tuple[AttributeFilter, ...] = ()
    channel_lists: bool = False
    attributes: tuple[str, ...] = ()
    by_key: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ScoreQuery:
    """A Score call.

    Attributes:
        item_ids: (I,) in request order.
        stage: None = the last scoring stage of the bundle.
    """

    user: UserQuery
    item_ids: Ids
    stage: Stage | None = None
    by_key: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ItemList:
    """Items by id, best first, with their keys where the catalogue has string ids.

    Shapes: ids (n,) int64, scores (n,) float32, keys n strings or None.
    """

    ids: Ids
    scores: Floats
    keys: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ChannelPart:
    """One channel's share of an answer; `items` only when channel lists were asked for."""

    name: str
    status: ChannelStatus
    count: int
    micros: int
    items: ItemList | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Circumstances:
    """What every answer about a user says beside its items."""

    bundle_version: str
    known: bool
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RecallAnswer:
    """Answer to a RecallQuery; masks (n,) uint32, bit i = found by `channels[i]`."""

    items: ItemList
    masks: Masks
    channels: tuple[ChannelPart, ...]
    attributes: Sequence[Mapping[str, str]] | None
    about: Circumstances


@dataclass(frozen=True, slots=True, eq=False)
class RecommendAnswer:
    """As RecallAnswer, with the stages and, where calibrated, probabilities aligned with the items."""

    items: ItemList
    masks: Masks
    p_click: Floats | None
    p_conversion: Floats | None
    channels: tuple[ChannelPart, ...]
    stages: tuple[StageReport, ...]
    attributes: Sequence[Mapping[str, str]] | None
    about: Circumstances


@dataclass(frozen=True, slots=True, eq=False)
class ScoreAnswer:
    """Scores of the known items, in request order, and the ids of the others."""

    items: ItemList
    p_click: Floats | None
    p_conversion: Floats | None
    unknown: Ids
    about: Circumstances


@dataclass(frozen=True, slots=True)
class RecordQuery:
    """A Record call after validation.

    Attributes:
        events: those to record.
        rejected: (index in the request, reason) of the others.
    """

    events: tuple[Event, ...]
    rejected: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class RecordAnswer:
    """How many events were recorded, how many had been before, and which were rejected."""

    accepted: int
    duplicates: int
    rejected: tuple[tuple[int, str], ...]

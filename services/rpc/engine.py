"""Answers calls: reads the user, asks the bundle's cascade, puts the answer together. Knows no protobuf.

query ─► check ─► user state (store, or the request's own history) ─► Users ─► cascade ─► answer
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from recsys.bundle.bundle import Bundle
from recsys.cascade.answers import ChannelAnswer, StageReport
from recsys.columns import TITLE
from recsys.errors import DeadlineError, RequestError
from recsys.retrieval.channel import TowerChannel
from recsys.retrieval.filters import row_mask
from recsys.retrieval.vector_cache import VectorCache
from recsys.stores.store import UserState
from recsys.types import Candidates, Deadline, Ids, RaggedRows, RowMask, Rows, Users
from services.rpc.calls import (
    FEATURE_STORE_FAULT,
    ChannelPart,
    Circumstances,
    ItemList,
    RecallAnswer,
    RecallQuery,
    RecommendAnswer,
    RecordAnswer,
    RecordQuery,
    ScoreAnswer,
    ScoreQuery,
    UserQuery,
)
from services.rpc.measurements import (
    CHANNEL_ANSWERS,
    CHANNEL_SECONDS,
    DEGRADED,
    EVENTS,
    PART_SECONDS,
    USER_VECTORS,
    Measurements,
)
from services.rpc.settings import MAX_K
from services.rpc.store_guard import GuardedStore

_NO_IDS: Ids = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """The user of a call, in the bundle's terms: one row of a batch of size 1."""

    users: Users
    known: bool
    degraded: tuple[str, ...]


class Engine:
    """The bundle that is served now, and the answers from it.

    A switch of bundles is one assignment: a call that has begun ends with the bundle it began with.

    Args:
        bundle: the one to begin with.
        store: where users' states are.
        measurements: where calls are counted.
        cache_bytes: memory for the vectors of users who come back; 0 = none are kept.
    """

    def __init__(self, bundle: Bundle, store: GuardedStore, measurements: Measurements, cache_bytes: int = 0) -> None:
        self.store = store
        self._measurements = measurements
        self._vectors = VectorCache(cache_bytes, partial(measurements.count, USER_VECTORS)) if cache_bytes else None
        self.switch(bundle)

    def switch(self, bundle: Bundle) -> None:
        """Answers the calls that begin from now on from another bundle."""
        for channel in bundle.channels.values():
            if isinstance(channel, TowerChannel):
                channel.tower.cache = self._vectors
        self.bundle = bundle

    @property
    def integer_ids(self) -> frozenset[str]:
        """Who has integer ids in the bundle, "user" or "item", and so cannot be named by a key."""
        users = {"user"} if self.bundle.manifest.dataset.user_ids == "integer" else set()
        items = {"item"} if self.bundle.catalogue.keys is None else set()
        return frozenset(users | items)

    async def recall(self, query: RecallQuery, deadline: Deadline) -> RecallAnswer:
        """The k best eligible items over the channels asked for.

        Raises:
            RequestError: a field out of its bounds.
            DeadlineError: nobody waits any more.
        """
        bundle = self.bundle
        allowed = _check(query, bundle)
        person = await self._person(bundle, query, deadline)
        started = time.perf_counter()
        recalled = bundle.cascade.recall(
            person.users, query.k, channels=query.channels, allowed=allowed, deadline=deadline
        )
        self._measurements.observe(PART_SECONDS, time.perf_counter() - started, "recall")
        channels = self._channels(bundle, recalled.channels, query.channel_lists)
        candidates = recalled.candidates
        return RecallAnswer(
            items=_items(bundle, candidates.rows, candidates.scores),
            masks=candidates.channels,
            channels=channels,
            attributes=_attributes(bundle, candidates.rows, query.attributes),
            about=self._about(bundle, person, recalled.degraded),
        )

    async def recommend(self, query: RecallQuery, deadline: Deadline) -> RecommendAnswer:
        """The whole cascade; raises as `recall` does."""
        bundle = self.bundle
        allowed = _check(query, bundle)
        person = await self._person(bundle, query, deadline)
        started = time.perf_counter()
        ranked = bundle.cascade.run(person.users, query.k, channels=query.channels, allowed=allowed, deadline=deadline)
        self._measurements.observe(PART_SECONDS, time.perf_counter() - started, "cascade")
        rows, scores = ranked.candidates.rows, ranked.scores
        return RecommendAnswer(
            items=_items(bundle, rows, scores.score),
            masks=ranked.candidates.channels,
            p_click=scores.p_click,
            p_conversion=scores.p_conversion,
            channels=self._channels(bundle, ranked.channels, query.channel_lists),
            stages=_from_eligible(ranked.stages, _eligible(bundle, person.users, allowed)),
            attributes=_attributes(bundle, rows, query.attributes),
            about=self._about(bundle, person, ranked.degraded),
        )

    async def score(self, query: ScoreQuery, deadline: Deadline) -> ScoreAnswer:
        """Scores of given items by one stage.

        Raises:
            PreconditionError: the bundle has no such stage.
        """
        bundle = self.bundle
        _need_string_ids(bundle, query.by_key, query.user)
        person = await self._person(bundle, RecallQuery(query.user, 1, exclude_seen=False), deadline)
        rows = bundle.catalogue.rows_of(query.item_ids)
        known = rows >= 0
        found = rows[known]
        size = len(found)
        candidates = Candidates(
            found, np.zeros(size, np.float32), np.zeros(size, np.uint32), np.array((0, size), np.int64)
        )
        started = time.perf_counter()
        scores = bundle.cascade.score(person.users, candidates, query.stage)
        self._measurements.observe(PART_SECONDS, time.perf_counter() - started, "score")
        return ScoreAnswer(
            items=_items(bundle, found, scores.score),
            p_click=scores.p_click,
            p_conversion=scores.p_conversion,
            unknown=query.item_ids[~known],
            about=self._about(bundle, person, ()),
        )

    async def record(self, query: RecordQuery) -> RecordAnswer:
        """Records events.

        Raises:
            StoreError: the store is away.
        """
        recorded = await self.store.record(query.events) if query.events else None
        answer = RecordAnswer(
            recorded.accepted if recorded else 0, recorded.duplicates if recorded else 0, query.rejected
        )
        self._measurements.count(EVENTS, "accepted", by=answer.accepted)
        self._measurements.count(EVENTS, "duplicate", by=answer.duplicates)
        self._measurements.count(EVENTS, "rejected", by=len(answer.rejected))
        return answer

    async def _person(self, bundle: Bundle, query: RecallQuery, deadline: Deadline) -> Person:
        """Reads the user's state where the call does not bring its own, and turns ids into rows."""
        started = time.perf_counter()
        state, degraded = await self._state(bundle, query.user)
        read = time.perf_counter()
        if deadline.passed:
            raise DeadlineError("the deadline passed before retrieval began; allow more time or send fewer calls")
        person = person_of(bundle, query, state, degraded)
        self._measurements.observe(PART_SECONDS, read - started, "store")
        self._measurements.observe(PART_SECONDS, time.perf_counter() - read, "prepare")
        return person

    async def _state(self, bundle: Bundle, user: UserQuery) -> tuple[UserState, tuple[str, ...]]:
        if user.history is not None:
            # The answer must be a function of request and bundle alone: the profile comes from the bundle.
            known = None if user.user_id is None else bundle.users.lookup(user.user_id)
            return UserState(known.attributes if known else {}, user.history, seen_ids=user.history), ()
        if user.user_id is None:
            return UserState(), ()
        state = await self.store.read(user.user_id)
        return (UserState(), (FEATURE_STORE_FAULT,)) if state is None else (state, ())

    def _channels(self, bundle: Bundle, answers: Sequence[ChannelAnswer], lists: bool) -> tuple[ChannelPart, ...]:
        parts = []
        for answer in answers:
            found = answer.candidates
            items = _items(bundle, found.rows, found.scores) if lists else None
            parts.append(ChannelPart(answer.name, answer.status, len(found.rows), answer.micros, items))
            self._measurements.observe(CHANNEL_SECONDS, answer.micros / 1e6, answer.name)
            self._measurements.count(CHANNEL_ANSWERS, answer.name, answer.status)
        return tuple(parts)

    def _about(self, bundle: Bundle, person: Person, faults: tuple[str, ...]) -> Circumstances:
        degraded = person.degraded + faults
        for fault in degraded:
            self._measurements.count(DEGRADED, fault)
        return Circumstances(bundle.version, person.known, degraded)


def _check(query: RecallQuery, bundle: Bundle) -> RowMask | None:
    """Bounds that need the bundle; returns the rows that the filters allow.

    Raises:
        RequestError: names field, value and bound.
    """
    if not 1 <= query.k <= MAX_K:
        raise RequestError("k", query.k, f"must be between 1 and {MAX_K}")
    for name in query.channels:
        if name not in bundle.channels:
            raise RequestError("channels", name, f"this bundle has: {', '.join(bundle.channels)}")
    _need_string_ids(bundle, query.by_key, query.user)
    for name in query.attributes:
        if name != TITLE and name not in bundle.catalogue.attribute_names:
            known = ", ".join(dict.fromkeys([TITLE, *bundle.catalogue.attribute_names]))
            raise RequestError("attributes", name, f"there is no such attribute; there are: {known}")
    return row_mask(bundle.catalogue, query.filters) if query.filters else None


def _need_string_ids(bundle: Bundle, field: str, user: UserQuery) -> None:
    """Refuses keys where ids are integers: their hashes would name nobody."""
    if field and bundle.catalogue.keys is None:
        raise RequestError(field, "given", "this bundle's items have integer ids; use the integer fields")
    if user.key is not None and bundle.manifest.dataset.user_ids == "integer":
        raise RequestError("user_key", user.key, "this bundle's users have integer ids; use user_id")


def _eligible(bundle: Bundle, users: Users, allowed: RowMask | None) -> int:
    """How many items may be found for a user: those that the filters allow, less those excluded."""
    excluded = np.unique(users.excluded.values)
    if allowed is None:
        return len(bundle.catalogue) - len(excluded)
    return allowed.count - int(np.count_nonzero(allowed.allowed[excluded]))


def _from_eligible(stages: Sequence[StageReport], eligible: int) -> tuple[StageReport, ...]:
    """The first stage takes what is eligible, which the cascade, knowing no catalogue, cannot say."""
    first, *others = stages
    return (replace(first, count_in=eligible), *others)


def person_of(bundle: Bundle, query: RecallQuery, state: UserState, degraded: tuple[str, ...]) -> Person:
    """Turns a user's ids into rows of the bundle's catalogue; ids that it lacks are left out."""
    history_ids, seen_ids = state.history_ids, state.seen_ids if query.exclude_seen else _NO_IDS
    if query.exclude_seen and seen_ids is history_ids:
        seen_ids = _NO_IDS
    # One look-up for all: the ids of the seen set are mostly those of the history, whose places are then at hand.
    rows = bundle.catalogue.rows_of(np.concatenate((history_ids, seen_ids, query.exclude)))
    history = _known(rows[: len(history_ids)])
    excluded = _known(rows if query.exclude_seen else rows[len(history_ids) :])
    user_id = query.user.user_id
    users = Users(
        ids=np.array([0 if user_id is None else user_id], np.int64),
        known=np.array([user_id is not None], np.bool_),
        attributes={name: [value] for name, value in state.attributes.items()},
        history=_one_list(history),
        excluded=_one_list(excluded),
    )
    return Person(users, len(history) > 0, degraded)


def _known(rows: Rows) -> Rows:
    return rows[rows >= 0]


def _one_list(rows: Rows) -> RaggedRows:
    return RaggedRows(rows, np.array((0, len(rows)), np.int64))


def _items(bundle: Bundle, rows: Rows, scores: Any) -> ItemList:
    keys = bundle.catalogue.keys
    return ItemList(bundle.catalogue.ids[rows], scores, None if keys is None else [keys[row] for row in rows.tolist()])


def _attributes(bundle: Bundle, rows: Rows, names: Sequence[str]) -> list[Mapping[str, str]] | None:
    """The attributes asked for, as text; every item has a title, be it its key or id."""
    if not names:
        return None
    columns = [name for name in names if name in bundle.catalogue.attribute_names]
    found: list[dict[str, str]] = bundle.catalogue.attributes_of(rows, columns)
    if TITLE in names:
        titles = bundle.catalogue.titles()
        found = [{**values, TITLE: titles[row]} for values, row in zip(found, rows.tolist(), strict=True)]
    return list(found)

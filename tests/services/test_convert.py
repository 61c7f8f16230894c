"""Protobuf to arrays and back: nothing lost, every bound named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.columns import EventType
from recsys.data.string_ids import hash_key
from recsys.errors import RequestError
from services.pb import recsys_pb2 as pb
from services.rpc import convert
from services.rpc.settings import FUTURE_LIMIT_MS

INT64 = st.integers(-(2**63), 2**63 - 1)
NOW = 1_700_000_000_000

maybe_id = st.none() | INT64
events = st.builds(
    pb.Event,
    event_id=maybe_id,
    user_id=maybe_id,
    item_id=maybe_id,
    type=st.integers(0, 5),
    timestamp_ms=st.none() | st.integers(-(10**6), NOW + 2 * FUTURE_LIMIT_MS),
    value=st.none() | st.floats(width=32),
)


@given(arrays(np.int64, st.integers(0, 300)), st.data())
def test_bytes_of_an_array_are_the_packed_field_that_extend_writes(ids: np.ndarray, data: st.DataObject) -> None:
    masks = data.draw(arrays(np.uint32, len(ids)))
    scores = data.draw(arrays(np.float32, len(ids), elements=st.floats(width=32, allow_nan=False)))
    expected = pb.RecallResponse(item_ids=ids.tolist(), scores=scores.tolist(), channel_masks=masks.tolist())
    written = convert.packed(1, ids, "<i8") + convert.packed(2, scores, "<f4") + convert.packed(3, masks, "<u4")
    assert pb.RecallResponse.FromString(written) == expected


def test_slices_and_other_byte_orders_are_written_as_they_read() -> None:
    ids = np.arange(10, dtype=">i8")[::3]
    assert list(pb.RecallResponse.FromString(convert.packed(1, ids, "<i8")).item_ids) == [0, 3, 6, 9]


def test_absent_user_is_anonymous_and_user_zero_is_a_user() -> None:
    assert convert.recall_query(pb.RecallRequest(k=1)).user.user_id is None
    assert convert.recall_query(pb.RecallRequest(k=1, user_id=0)).user.user_id == 0


def test_seen_items_are_excluded_unless_the_request_says_otherwise() -> None:
    assert convert.recall_query(pb.RecallRequest(k=1)).exclude_seen
    assert not convert.recall_query(pb.RecallRequest(k=1, exclude_seen=False)).exclude_seen


def test_keys_become_the_ids_that_an_import_gave_them() -> None:
    query = convert.recall_query(
        pb.RecallRequest(user_key="ann", history_keys=["a", "b"], exclude_item_keys=["c"], k=1)
    )
    assert query.user.user_id == hash_key("ann")
    assert query.user.history is not None
    assert query.user.history.tolist() == [hash_key("a"), hash_key("b")]
    assert query.exclude.tolist() == [hash_key("c")]
    assert query.by_key == "history_keys"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RecallRequest(history=range(10_001)), "history"),
        (pb.RecallRequest(history_keys=["a"] * 10_001), "history_keys"),
        (pb.RecallRequest(exclude_item_ids=range(10_001)), "exclude_item_ids"),
        (pb.RecallRequest(history=[1], history_keys=["a"]), "history_keys"),
        (pb.RecallRequest(user_id=1, user_key="a"), "user_key"),
        (pb.RecallRequest(filters=[pb.Filter(attribute="year")]), "filters"),
        (pb.RecallRequest(filters=[pb.Filter(attribute="year", min=1)] * 33), "filters"),
        (pb.RecallRequest(filters=[pb.Filter(attribute="year", min=float("nan"))]), "filters.min"),
        (pb.RecallRequest(attributes=[str(i) for i in range(65)]), "attributes"),
        (pb.RecallRequest(request_id="x" * 257), "request_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_beyond_its_bound_is_refused_by_name(request_: pb.RecallRequest, field: str) -> None:
    with pytest.raises(RequestError, match="must") as refusal:
        convert.recall_query(request_)
    assert refusal.value.field == field


def test_a_history_of_ten_thousand_is_taken() -> None:
    query = convert.recall_query(pb.RecallRequest(history=range(10_000)))
    assert query.user.history is not None
    assert query.user.history.tolist() == list(range(10_000))


@given(st.lists(events, max_size=8))
def test_every_event_is_recorded_or_rejected_by_its_index(messages: list[pb.Event]) -> None:
    query = convert.record_query(pb.RecordRequest(events=messages), now_ms=NOW)
    rejected = dict(query.rejected)
    assert len(query.events) + len(rejected) == len(messages)
    kept = iter(query.events)
    for index, message in enumerate(messages):
        good = (
            message.HasField("user_id")
            and message.HasField("item_id")
            and message.type in (1, 2, 3)
            and 0 <= message.timestamp_ms <= NOW + FUTURE_LIMIT_MS
            and np.isfinite(message.value)
        )
        assert (index not in rejected) == good, rejected.get(index)
        if good:
            event = next(kept)
            assert (event.user_id, event.item_id) == (message.user_id, message.item_id)
            assert event.timestamp_ms == (message.timestamp_ms if message.HasField("timestamp_ms") else NOW)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (pb.Event(item_id=1, type=2), "user_id"),
        (pb.Event(user_id=1, type=2), "item_id"),
        (pb.Event(user_id=1, item_id=1), "type"),
        (pb.Event(user_id=1, item_id=1, type=9), "type"),
        (pb.Event(user_id=1, item_id=1, type=2, timestamp_ms=NOW + FUTURE_LIMIT_MS + 1), "24 hours"),
        (pb.Event(user_id=1, item_id=1, type=2, timestamp_ms=-1), "timestamp_ms = -1"),
        (pb.Event(user_id=1, item_id=1, type=2, value=float("inf")), "value"),
        (pb.Event(user_id=1, item_key="x" * 257, type=2), "item_key is longer"),
        (pb.Event(user_id=1, item_id=1, item_key="x", type=2), "item_key is not the key of item_id = 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_rejected_event_says_why(message: pb.Event, reason: str) -> None:
    good = pb.Event(event_id=1, user_id=1, item_id=1, type=pb.EVENT_TYPE_CLICK)
    query = convert.record_query(pb.RecordRequest(events=[good, message, good]), now_ms=NOW)
    assert len(query.events) == 2
    ((index, said),) = query.rejected
    assert index == 1
    assert reason in said


def test_an_event_keeps_the_keys_that_its_ids_are_hashes_of() -> None:
    named = pb.Event(event_id=1, user_key="Zoë", item_key="a b", item_id=hash_key("a b"), type=2)
    by_id = pb.Event(event_id=2, user_id=1, item_id=2, type=2)
    first, second = convert.record_query(pb.RecordRequest(events=[named, by_id]), now_ms=NOW).events
    assert (first.user_id, first.user_key) == (hash_key("Zoë"), "Zoë")
    assert (first.item_id, first.item_key) == (hash_key("a b"), "a b")
    assert (second.user_key, second.item_key) == (None, None)


def test_an_event_named_by_a_key_is_rejected_where_ids_are_integers() -> None:
    request = pb.RecordRequest(events=[pb.Event(user_key="Zoë", item_key="a", type=2)])
    for what in ("user", "item"):
        query = convert.record_query(request, now_ms=NOW, integer_ids=frozenset({what}))
        assert query.rejected == ((0, f"{what}_key: the {what}s of this bundle have integer ids; use {what}_id"),)


def test_an_event_without_id_has_the_same_one_each_time_it_is_sent() -> None:
    def read(**changed: object) -> int:
        fields = {"user_id": 1, "item_id": 2, "type": pb.EVENT_TYPE_CLICK, "timestamp_ms": 5, **changed}
        (event,) = convert.record_query(pb.RecordRequest(events=[pb.Event(**fields)]), now_ms=NOW).events
        return event.event_id

    assert read() == read()
    assert len({read(), read(user_id=2), read(item_id=3), read(type=1), read(timestamp_ms=6)}) == 5


def test_too_many_events_are_refused_whole() -> None:
    with pytest.raises(RequestError, match="events"):
        convert.record_query(pb.RecordRequest(events=[pb.Event()] * 10_001))


def test_types_of_events_are_those_of_the_library() -> None:
    assert set(convert.EVENT_TYPES.values()) == set(EventType)

"""How a user's state lies in Redis: the names of the keys and the bytes behind them."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.columns import POSITIVE_EVENTS, EventType
from recsys.errors import ConfigError, DataError, StoreError
from recsys.stores.store import MAX_HISTORY, MAX_SEEN, Event, UserState
from recsys.types import Ids

RECORD: Final = np.dtype([("id", "<i8"), ("ms", "<i8"), ("event", "u1")])
"""One event of a history, 17 bytes; event 0 = of unknown type (bulk-loaded)."""
EVENT_CODES: Final = {EventType.IMPRESSION: 0, EventType.CLICK: 1, EventType.CONVERSION: 2}

_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_pack_record = struct.Struct("<qqB").pack
_POSITION = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Keys:
    """The names of the keys of one namespace.

    Args:
        namespace: up to 64 letters, digits, "_", "." and "-"; it separates tenants on one server.

    Raises:
        ConfigError: for any other namespace.
    """

    def __init__(self, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ConfigError(
                f"store namespace {namespace!r}: use 1 to 64 letters, digits, '_', '.' and '-', "
                "beginning with a letter or a digit"
            )
        self.namespace = namespace
        self.stream = f"{namespace}:events".encode()
        self.stream_claim = f"{namespace}:events:claim".encode()
        self.stream_name = f"{namespace}:events:name".encode()
        self.stream_drained = f"{namespace}:events:drained".encode()
        self.loaded = f"{namespace}:loaded".encode()
        self._profile = f"{namespace}:u:%d".encode()
        self._history = f"{namespace}:h:%d".encode()
        self._seen = f"{namespace}:s:%d".encode()
        self._event = f"{namespace}:e:%d".encode()

    def user(self, user_id: int) -> tuple[bytes, bytes, bytes]:
        """Profile, history and seen ids of a user."""
        return self._profile % user_id, self._history % user_id, self._seen % user_id

    def event(self, event_id: int) -> bytes:
        """What remembers that an event was recorded."""
        return self._event % event_id


def pack_state(state: UserState) -> tuple[bytes, bytes, bytes]:
    """The three values of a user; an empty value stands for a key that is not there.

    Only the newest MAX_HISTORY events and MAX_SEEN ids are kept; the history is brought into order
    and a seen id is kept once, so that what is stored is sound whatever the caller gave.

    Raises:
        DataError: for a history whose ids and times differ in length, or an attribute that JSON cannot hold.
    """
    return (
        _pack_profile(state.attributes),
        _pack_history(state.history_ids, state.history_ms),
        newest_distinct(state.seen_ids).astype("<i8", copy=False).tobytes(),
    )


def _pack_profile(attributes: Mapping[str, Any]) -> bytes:
    if not attributes:
        return b""
    present = {name: value for name, value in attributes.items() if not _is_missing(value)}
    try:
        return _encode_json(present).encode()
    except (TypeError, ValueError) as error:
        raise DataError(
            f"user attributes {present!r}: only text, numbers, booleans and lists of them: {error}"
        ) from None


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _pack_history(ids: Ids, times_ms: Ids) -> bytes:
    if len(ids) != len(times_ms):
        raise DataError(f"a history has {len(ids)} ids and {len(times_ms)} times: give one time an id")
    if not len(ids):
        return b""
    if (times_ms[1:] < times_ms[:-1]).any():
        order = np.argsort(times_ms, kind="stable")
        ids, times_ms = ids[order], times_ms[order]
    records = np.zeros(min(len(ids), MAX_HISTORY), RECORD)
    records["id"] = ids[-MAX_HISTORY:]
    records["ms"] = times_ms[-MAX_HISTORY:]
    return records.tobytes()


def newest_distinct(ids: Ids) -> Ids:
    """The newest MAX_SEEN distinct ids, in the order in which each was last seen."""
    if len(ids) <= MAX_SEEN and len(set(ids.tolist())) == len(ids):
        return ids
    backwards = ids[::-1]
    _, first = np.unique(backwards, return_index=True)
    first.sort()
    return backwards[first[:MAX_SEEN]][::-1]


def unpack_state(values: Sequence[bytes | None]) -> UserState:
    """The state behind the values of `Keys.user`.

    Raises:
        StoreError: when one of them is not what this service writes.
    """
    profile, history, seen = values
    if profile is history is seen is None:
        return UserState()
    try:
        records: NDArray[Any] = np.frombuffer(history or b"", RECORD)[-MAX_HISTORY:]
        return UserState(
            json.loads(profile) if profile else {},
            records["id"].astype(np.int64),
            records["ms"].astype(np.int64),
            np.frombuffer(seen or b"", "<i8")[-MAX_SEEN:],
        )
    except ValueError as error:
        raise StoreError(f"the store holds a user's state that this service did not write: {error}") from None


def pack_record(event: Event) -> bytes:
    """The record of a click or conversion in a history; empty for an impression, which is no part of one.

    Raises:
        DataError: for an id or a time beyond 64 bits.
    """
    if event.type not in POSITIVE_EVENTS:
        return b""
    try:
        return _pack_record(event.item_id, event.timestamp_ms, EVENT_CODES[event.type])
    except struct.error:
        raise DataError(f"{event}: ids and times are integers of 64 bits") from None


STREAM_FIELDS: Final = (b"event_id", b"user_id", b"item_id", b"type", b"timestamp_ms", b"click_id", b"value")
STREAM_KEYS: Final = (b"user_key", b"item_key")


def stream_fields(event: Event) -> tuple[bytes, ...]:
    """What the stream holds of an event, as text: name, value, name, value, …; an empty value = absent.

    The STREAM_FIELDS are always there, keys where the event has any: entries with the same fields share
    their names in the server's memory, and in one catalogue either all events have keys or none has.
    """
    fields = [part for pair in zip(STREAM_FIELDS, _stream_values(event), strict=True) for part in pair]
    for name, key in zip(STREAM_KEYS, (event.user_key, event.item_key), strict=True):
        if key is not None:
            fields += (name, key.encode())
    return tuple(fields)


def _stream_values(event: Event) -> tuple[bytes, ...]:
    return (
        b"%d" % event.event_id,
        b"%d" % event.user_id,
        b"%d" % event.item_id,
        event.type.value.encode(),
        b"%d" % event.timestamp_ms,
        b"" if event.click_id is None else b"%d" % event.click_id,
        b"" if event.value is None else repr(float(event.value)).encode(),
    )


def event_of_stream(fields: Sequence[bytes]) -> Event:
    """The event of a stream entry: name, value, name, value, …

    Raises:
        StoreError: for an entry that this service did not write.
    """
    values = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        event_id, user_id, item_id, kind, timestamp_ms, click_id, value = (values[name] for name in STREAM_FIELDS)
        user_key, item_key = (values.get(name) for name in STREAM_KEYS)
        return Event(
            event_id=int(event_id),
            user_id=int(user_id),
            item_id=int(item_id),
            type=EventType(kind.decode()),
            timestamp_ms=int(timestamp_ms),
            click_id=int(click_id) if click_id else None,
            value=float(value) if value else None,
            user_key=None if user_key is None else user_key.decode(),
            item_key=None if item_key is None else item_key.decode(),
        )
    except (KeyError, ValueError) as error:
        raise StoreError(f"the event stream holds an entry that this service did not write: {error!r}") from None


def parse_position(text: str) -> tuple[int, int]:
    """A position of the stream, "time-sequence" or "time", as two numbers.

    Raises:
        DataError: for anything else.
    """
    match = _POSITION.fullmatch(text)
    if match is None:
        raise DataError(
            f"{text!r} is no position of the event stream: give one that the stream gave, or 0 for its start"
        )
    return int(match[1]), int(match[2] or 0)

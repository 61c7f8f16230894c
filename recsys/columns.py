"""The names of the columns that every table of a dataset uses, and the kinds of events."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
EVENT: Final = "event"
TIMESTAMP_MS: Final = "timestamp_ms"
EVENT_ID: Final = "event_id"
CLICK_ID: Final = "click_id"
VALUE: Final = "value"

USER_KEY: Final = "user_key"
ITEM_KEY: Final = "item_key"
"""Beside an id that is the hash of a string: that string."""

TITLE: Final = "title"
BID: Final = "bid"
CREATED_MS: Final = "created_ms"


class EventType(StrEnum):
    """What a user did with an item. The value is what `events.parquet` holds."""

    IMPRESSION = "impression"
    CLICK = "click"
    CONVERSION = "conversion"


POSITIVE_EVENTS: Final = (EventType.CLICK, EventType.CONVERSION)
"""The events that make up a history and a seen set: an impression alone does neither."""

"""The latest users' vectors, so that a user who comes back with nothing new costs no run of a tower."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from recsys.types import Floats

Source: TypeAlias = Literal["cache", "tower"]

_ENTRY_BYTES: Final = 320
"""Of an entry beside its numbers: array, key, place in the order."""


class VectorCache:
    """Vectors by a digest of all that they were made from, the least recently used forgotten.

    As a key holds everything that a tower reads of a user, and which tower reads it, nothing is ever out of date: an
    event, another profile or another bundle has another key. One cache serves the channels of all bundles that a
    process opens. Belongs to one thread.

    Args:
        max_bytes: memory that entries take at most, all in all.
        count: told the channel and where its vectors came from, at every look-up.
    """

    def __init__(self, max_bytes: int, count: Callable[[str, Source], None] | None = None) -> None:
        self._max_bytes = max_bytes
        self._count = count
        self._entries: OrderedDict[bytes, Floats] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, channel: str, key: bytes) -> Floats | None:
        """What was put under a key, unless it is forgotten."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        if self._count is not None:
            self._count(channel, "tower" if found is None else "cache")
        return found

    def put(self, key: bytes, vectors: Floats) -> None:
        """Keeps vectors, which nobody may write to any more."""
        vectors.setflags(write=False)
        known = self._entries.pop(key, None)
        self._entries[key] = vectors
        self._bytes += _size(vectors) - (0 if known is None else _size(known))
        while self._bytes > self._max_bytes:
            self._bytes -= _size(self._entries.popitem(last=False)[1])


def _size(vectors: Floats) -> int:
    return vectors.nbytes + _ENTRY_BYTES

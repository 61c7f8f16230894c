"""The feature store on Redis or Valkey: one MGET a request, one atomic script an event."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from importlib.resources import files
from itertools import islice
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError, ResponseError

from recsys.stores.coalescing import CoalescingReader
from recsys.stores.link import Link, pack, redacted, refuse_errors
from recsys.stores.packing import (
    Keys,
    event_of_stream,
    pack_record,
    pack_state,
    parse_position,
    stream_fields,
    unpack_state,
)
from recsys.stores.store import (
    DEDUPE_SECONDS,
    MAX_HISTORY,
    MAX_SEEN,
    STREAM_LENGTH,
    Event,
    Recorded,
    StreamClaim,
    StreamEntry,
    UserState,
)

_LOAD_BATCH = 128
"""Users written by one script call: some 0.5 ms in which the server serves nobody else."""
_STREAM_PAGE = 1_000


class Script:
    """A Lua script, named to the server by its hash and sent only where the server lacks it."""

    def __init__(self, name: str) -> None:
        self.text = files("recsys.stores").joinpath(name).read_bytes()
        self._call = (b"EVALSHA", hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode())

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> bytes:
        """A packed call of the script."""
        return pack(*self._call, len(keys), *keys, *arguments)

    async def run(self, link: Link, calls: Sequence[bytes]) -> list[Any]:
        """Answers of packed calls, one round trip; one more when the server had forgotten the script.

        Raises:
            StoreError: when the server is away or refuses a call; calls before it were carried out.
        """
        answers = await link.exchange(b"".join(calls), len(calls))
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            load = pack(b"SCRIPT", b"LOAD", self.text)
            _, *again = await link.exchange(load + b"".join(calls[i] for i in unknown), 1 + len(unknown))
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        refuse_errors(answers, link.name)
        return answers


class _Head(NamedTuple):
    """The oldest entry of the stream; number 0 where the server does not count."""

    position: str
    number: int


def _head_of(about: dict[bytes, Any]) -> _Head | None:
    """The oldest entry, from what XINFO STREAM says."""
    first = about[b"first-entry"]
    if first is None:
        return None
    added = about.get(b"entries-added")
    return _Head(first[0].decode(), 0 if added is None else added - about[b"length"] + 1)


class RedisStore:
    """A `Store` on any Redis ≥ 6.2 or Valkey; connects when first used, reconnects by itself.

    Belongs to one event loop. Reads, writes and bulk loading have a connection each, so that none
    waits for another. Several processes may use one namespace at once.

    Args:
        url: redis://, rediss:// or unix://.
        namespace: what all keys begin with.
        read_timeout: seconds for a read or a ping, connecting included.
        write_timeout: seconds for one round trip of a write.
        retry_after: seconds to fail at once after a failure, before the server is tried again.
        dedupe_seconds: how long an event id is remembered.
        stream_length: newest events kept in the stream (about: the server cuts in blocks).

    Raises:
        ConfigError: for a URL or a namespace that cannot be used.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "recsys",
        *,
        read_timeout: float = 0.05,
        write_timeout: float = 1.0,
        retry_after: float = 0.25,
        dedupe_seconds: float = DEDUPE_SECONDS,
        stream_length: int = STREAM_LENGTH,
    ) -> None:
        self._url = redacted(url)
        self._keys = Keys(namespace)
        self._read_link = Link(url, read_timeout, retry_after)
        self._write_link = Link(url, write_timeout, retry_after)
        self._bulk_link = Link(url, max(10.0, write_timeout), retry_after)
        self._reader = CoalescingReader(self._read_link)
        self._record, self._load, self._claim = Script("record.lua"), Script("load.lua"), Script("claim.lua")
        self._bounds = (
            b"%d" % max(1, round(dedupe_seconds * 1000)),
            b"%d" % stream_length,
            b"%d" % MAX_HISTORY,
            b"%d" % MAX_SEEN,
        )

    def __repr__(self) -> str:
        return f"RedisStore({self._url!r}, {self._keys.namespace!r})"

    async def read(self, user_id: int) -> UserState:
        """State of a user in one round trip, shared with other reads; the empty state for one never heard of.

        Raises:
            StoreError: within `read_timeout` when the server is away; at once when it was a moment ago.
        """
        return unpack_state(await self._reader.read(self._keys.user(user_id)))

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Records events in one round trip, each by one atomic script.

        When the connection breaks on the way they are sent once more; those that had arrived count as duplicates.

        Raises:
            StoreError: when the server is away or refuses. Some events may have been recorded; giving
                all of them again is safe, since those then count as duplicates.
            DataError: for an id or a time beyond 64 bits; nothing was recorded.
        """
        if not events:
            return Recorded(0, 0)
        accepted = sum(await self._record.run(self._write_link, [self._record_call(event) for event in events]))
        return Recorded(accepted, len(events) - accepted)

    def _record_call(self, event: Event) -> bytes:
        _, history, seen = self._keys.user(event.user_id)
        keys = (self._keys.event(event.event_id), self._keys.stream, history, seen)
        return self._record.call(keys, (*self._bounds, pack_record(event), *stream_fields(event)))

    async def load(
        self, users: Iterable[tuple[int, UserState]], *, overwrite: bool = False, source: str | None = None
    ) -> int:
        """Bulk-loads states where the store has nothing newer.

        A user whose newest stored event is later keeps it all (a missing profile is filled in); one whose
        newest event is of the same time keeps history and seen ids and takes the profile.

        Args:
            users: read as they are written, so they need not fit in memory.
            overwrite: replace whatever the store has.
            source: names where the states come from, for one a bundle's version. When the last load
                was of the same source, nothing is read or written.

        Returns:
            How many users were written; those who were as new already are not.

        Raises:
            StoreError: when the server is away or refuses; what was written stays, loading again is safe.
        """
        if source is not None and not overwrite and await self._command(b"GET", self._keys.loaded) == source.encode():
            return 0
        written = await self._load_all(users, b"1" if overwrite else b"0")
        if source is not None:
            await self._command(b"SET", self._keys.loaded, source.encode())
        return written

    async def _load_all(self, users: Iterable[tuple[int, UserState]], flag: bytes) -> int:
        written = 0
        under_way: asyncio.Task[list[int]] | None = None
        states = iter(users)
        try:
            # The server works on one batch while the next is being packed.
            while batch := list(islice(states, _LOAD_BATCH)):
                call = self._load_call(batch, flag)
                if under_way is not None:
                    written += sum(await under_way)
                under_way = asyncio.create_task(self._load.run(self._bulk_link, [call]))
                await asyncio.sleep(0)
            return written + (sum(await under_way) if under_way is not None else 0)
        finally:
            if under_way is not None:
                under_way.cancel()

    def _load_call(self, batch: Sequence[tuple[int, UserState]], flag: bytes) -> bytes:
        keys: list[bytes] = []
        values = [flag]
        for user_id, state in batch:
            keys += self._keys.user(user_id)
            values += pack_state(state)
        return self._load.call(keys, values)

    async def stream(self) -> AsyncGenerator[StreamEntry, None]:
        """Events of the stream, oldest first; ends at its end.

        Raises:
            StoreError: when the server is away or refuses, or the stream holds what this service did not write.
        """
        position, number = "0-0", 0
        while True:
            head, page = await self._stream_page(position)
            if head is not None and parse_position(head.position) > parse_position(position):
                number = head.number - 1  # the first of the page is the oldest there is, which may lie further on
            for entry, fields in page:
                position, number = entry.decode(), number + 1
                yield StreamEntry(position, number if head and head.number else 0, event_of_stream(fields))
            if len(page) < _STREAM_PAGE:
                return

    async def _stream_page(self, after: str) -> tuple[_Head | None, list[Any]]:
        """The oldest entry of the stream, None when it is empty, and the next page after a position."""
        key = self._keys.stream
        read = pack(b"XRANGE", key, f"({after}", b"+", b"COUNT", _STREAM_PAGE)
        # Both as of one moment: the bound may drop events in between.
        commands = pack(b"MULTI") + pack(b"XINFO", b"STREAM", key) + read + pack(b"EXEC")
        answers = await self._bulk_link.exchange(commands, 4)
        refuse_errors(answers, self._bulk_link.name)
        about, page = answers[-1]
        refuse_errors([page], self._bulk_link.name)
        if isinstance(about, ResponseError):  # there has never been an event
            return None, []
        return _head_of(dict(zip(about[::2], about[1::2], strict=True))), page

    async def trim(self, position: str, number: int) -> None:
        """Forgets the stream up to and including an event, and remembers its number.

        Raises:
            DataError: for a position that is none.
            StoreError: when the server is away or refuses.
        """
        time_ms, sequence = parse_position(position)
        cut = pack(b"XTRIM", self._keys.stream, b"MINID", f"{time_ms}-{sequence + 1}")
        remember = pack(b"SET", self._keys.stream_drained, number)
        answers = await self._bulk_link.exchange(pack(b"MULTI") + cut + remember + pack(b"EXEC"), 4)
        refuse_errors([*answers, *answers[-1]], self._bulk_link.name)

    async def claim_stream(self, holder: str, seconds: float) -> StreamClaim:
        """Claims the stream for so long, or claims it again; 0 seconds give the claim up.

        Raises:
            StoreError: when the server is away or refuses.
        """
        keys = (self._keys.stream_claim, self._keys.stream_name, self._keys.stream_drained)
        values = (holder.encode(), b"%d" % round(seconds * 1000), secrets.token_hex(4).encode())
        ((held, name, drained),) = await self._claim.run(self._bulk_link, [self._claim.call(keys, values)])
        return StreamClaim(held.decode(), name.decode(), int(drained))

    async def ping(self) -> None:
        """Answers when the store does.

        Raises:
            StoreError: when it does not, within `read_timeout`.
        """
        await self._command(b"PING", link=self._read_link)

    async def close(self) -> None:
        """Closes the connections; what is stored stays."""
        for link in (self._read_link, self._write_link, self._bulk_link):
            await link.close()

    async def _command(self, *command: bytes | str | int, link: Link | None = None) -> Any:
        link = link or self._write_link
        answers = await link.exchange(pack(*command), 1)
        refuse_errors(answers, link.name)
        return answers[0]

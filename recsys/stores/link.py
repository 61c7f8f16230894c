"""One connection to a Redis server: bounded in time, quick to give up on a dead server, quick to come back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from recsys.errors import ConfigError, StoreError


def redacted(url: str) -> str:
    """The URL without its user and password, fit for a log.

    Everything before the last "@" goes, so that a password with an unescaped "/" or "@" does not show either.
    """
    without_query = re.sub(r"([?&](?:password|username)=)[^&]*", r"\1***", url)
    return re.sub(r"://.*@", "://***@", without_query, flags=re.DOTALL)


def pack(*parts: bytes | str | int) -> bytes:
    """One command as the server reads it."""
    packed: bytes = hiredis.pack_command(cast(Any, parts))
    return packed


@asynccontextmanager
async def patient_timeout(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, but never because the event loop itself was busy.

    A timer that is due runs before the answer that came in the meantime is looked at. So the last
    fifth of the time starts only once the first has run out, and what has arrived by then is
    handled before the block is cancelled.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle
    async with asyncio.timeout(None) as limit:

        def last_call() -> None:
            nonlocal timer
            timer = loop.call_later(0.2 * seconds, lambda: limit.reschedule(loop.time()))

        timer = loop.call_later(0.8 * seconds, last_call)
        try:
            yield
        finally:
            timer.cancel()


class Link:
    """A connection that is opened when needed and carries one exchange at a time.

    After a failure it refuses at once for `retry_after` seconds; then one exchange tries the server
    while others are still refused. So a dead server costs one caller in a while its timeout, and a
    server that is back is used again without anybody's doing.

    Args:
        url: redis://, rediss:// or unix:// with what redis-py understands behind it.
        timeout: seconds for one exchange, connecting included.
        retry_after: seconds to refuse after a failure.

    Raises:
        ConfigError: for a URL that cannot be read; a password in it is not shown.
    """

    def __init__(self, url: str, timeout: float, retry_after: float) -> None:
        self.name = redacted(url)
        try:
            parts = urlsplit(url)
            if parts.netloc and "@" in parts.path:
                raise ConfigError(f"store URL {self.name!r}: write '/', '@' and ':' in a password as %2F, %40 and %3A")
            pool: Any = ConnectionPool.from_url(url, protocol=2, driver_info=None, socket_timeout=None)
            self._connection: AbstractConnection = pool.make_connection()
        except (ValueError, TypeError):
            raise ConfigError(
                f"store URL {self.name!r} cannot be read: write redis://host:6379/0, rediss://… or unix:///path/to/socket"
            ) from None
        self._timeout, self._retry_after = timeout, retry_after
        self._lock = asyncio.Lock()
        self._failure = ""
        self._refuse_until = 0.0

    def refuse_if_away(self) -> None:
        """Raises StoreError when the server was away a moment ago, or is just being tried."""
        if self._failure and (self._lock.locked() or asyncio.get_running_loop().time() < self._refuse_until):
            raise StoreError(self._failure)

    async def exchange(self, commands: bytes, replies: int) -> list[Any]:
        """Sends packed commands and awaits their replies, in order, in one round trip.

        Returns:
            `replies` values; a command that the server refused gives its ResponseError as value.

        Raises:
            StoreError: when the server is away, was a moment ago, or does not answer in time. Whether
                commands were carried out is then unknown.
        """
        self.refuse_if_away()
        async with self._lock:
            if self._failure and asyncio.get_running_loop().time() < self._refuse_until:
                raise StoreError(self._failure)
            try:
                async with patient_timeout(self._timeout):
                    answers = await self._round_trip(commands, replies)
            except TimeoutError:
                raise await self._failed(f"no answer within {self._timeout * 1000:g} ms") from None
            except (RedisError, OSError) as error:
                raise await self._failed(str(error)) from None
            except BaseException:
                # Abandoned in between: replies to it must not be taken for those of the next exchange.
                await self._connection.disconnect(nowait=True)
                raise
            self._failure = ""
            return answers

    async def _round_trip(self, commands: bytes, replies: int) -> list[Any]:
        was_open = self._connection.is_connected
        try:
            return await self._converse(commands, replies)
        except (RedisConnectionError, OSError):
            if not was_open:
                raise
        # The server restarted or closed an idle connection. All that stores send may be sent twice.
        await self._connection.disconnect(nowait=True)
        return await self._converse(commands, replies)

    async def _converse(self, commands: bytes, replies: int) -> list[Any]:
        await self._connection.send_packed_command(commands, check_health=False)
        return [await self._reply() for _ in range(replies)]

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error

    async def _failed(self, reason: str) -> StoreError:
        await self._connection.disconnect(nowait=True)
        self._failure = f"the feature store at {self.name} is away: {reason}"
        self._refuse_until = asyncio.get_running_loop().time() + self._retry_after
        return StoreError(self._failure)

    async def close(self) -> None:
        """Closes the connection; a later exchange opens it again."""
        await self._connection.disconnect(nowait=True)


def refuse_errors(answers: Sequence[Any], name: str) -> None:
    """Raises StoreError for the first answer that is a server's refusal."""
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise StoreError(f"the feature store at {name} refused: {answer}")

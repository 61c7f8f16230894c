"""What supervisor and workers say to each other: JSON lines over a pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from recsys.config import Config
from services.rpc.settings import WorkerSettings


class Start(Config):
    """Supervisor: what to serve and how; the first line."""

    kind: Literal["start"] = "start"
    settings: WorkerSettings


class Look(Config):
    """Supervisor: look at CURRENT now, and answer with Serving or Refused."""

    kind: Literal["look"] = "look"


class Ask(Config):
    """Supervisor: answer with a Snapshot."""

    kind: Literal["ask"] = "ask"


class Serving(Config):
    """Worker: serves this version now."""

    kind: Literal["serving"] = "serving"
    version: str


class Refused(Config):
    """Worker: will not serve this version, and why; it goes on with what it has."""

    kind: Literal["refused"] = "refused"
    version: str
    reason: str


class Failed(Config):
    """Worker: cannot start, and why; it ends."""

    kind: Literal["failed"] = "failed"
    reason: str
    exit_code: int


class Snapshot(Config):
    """Worker: its numbers as of now."""

    kind: Literal["snapshot"] = "snapshot"
    measurements: dict[str, Any]
    in_flight: int
    store_available: bool


Message: TypeAlias = Annotated[
    Start | Look | Ask | Serving | Refused | Failed | Snapshot,
    Field(discriminator="kind"),
]
_READER: Final[TypeAdapter[Any]] = TypeAdapter(Message)

LINE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of the longest message, a snapshot."""


class Control:
    """One end of the line between supervisor and worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Control:
        """Talks over one socket of a pair."""
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock, limit=LINE_LIMIT))

    def send(self, message: Config) -> None:
        """Sends a message; one to an end that is gone is lost."""
        if not self._writer.is_closing():
            self._writer.write(message.model_dump_json().encode() + b"\n")

    async def receive(self) -> Any:
        """The next message, None once the other end is gone."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, asyncio.IncompleteReadError):
            return None
        return _READER.validate_json(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        """Closes this end, once what was sent has gone out."""
        self._writer.close()

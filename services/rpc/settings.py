"""Everything that `recsys serve` can be told: addresses, bounds, credentials; defaults stand here only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from recsys.config import Config
from recsys.errors import UsageError

MAX_K: Final = 1_000
MAX_HISTORY_IDS: Final = 10_000
MAX_EXCLUDED_IDS: Final = 10_000
MAX_SCORED_ITEMS: Final = 10_000
MAX_EVENTS: Final = 10_000
MAX_FILTERS: Final = 32
MAX_FILTER_VALUES: Final = 1_000
MAX_ATTRIBUTES: Final = 64
MAX_NAME_LENGTH: Final = 256
"""Characters of a request id, of a key or of an attribute's name."""
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
FUTURE_LIMIT_MS: Final = 24 * 3600 * 1000
"""An event may lie this far ahead of the server's clock."""

DEFAULT_LISTEN: Final = "127.0.0.1:50051"
STORE_FOLDER: Final = "store"
"""Of the embedded store, beside the bundles, when no other is given."""


def embedded_store_directory(bundles: Path, store_dir: Path | None) -> Path:
    """Where the embedded store of a server persists: where it was told to, else beside its bundles."""
    return store_dir or bundles.resolve().parent / STORE_FOLDER


class Address(Config):
    """A TCP address to listen on; port 0 takes a free one."""

    host: str
    port: int = Field(ge=0, le=65535)

    @classmethod
    def parse(cls, text: str, flag: str) -> Address:
        """Reads HOST:PORT, [IPV6]:PORT or a bare PORT on loopback.

        Raises:
            UsageError: names the flag and what was given.
        """
        host, colon, port = text.rpartition(":")
        host = host.strip("[]") if colon else "127.0.0.1"
        if not port.isascii() or not port.isdigit() or int(port) > 65535 or not host:
            raise UsageError(f"{flag} {text}: write it as HOST:PORT with a port from 0 to 65535")
        return cls(host=host, port=int(port))

    def beside(self, step: int, flag: str) -> Address:
        """The address whose port is `step` further on; a free one where this one is.

        Raises:
            UsageError: there is no such port.
        """
        if self.port and self.port + step > 65535:
            raise UsageError(f"{flag}: there is no port {self.port + step}; give it, or `none`")
        return Address(host=self.host, port=self.port + step if self.port else 0)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Credentials(Config):
    """Where the server's secrets lie; the secrets themselves are in no setting, flag or log.

    Attributes:
        tls_cert, tls_key: PEM files; both or neither.
        tls_client_ca: PEM file of the authority whose certificates clients must show (mTLS).
        tokens: file with one `NAME TOKEN` a line; a caller must show one of the tokens as bearer.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None


class ServeSettings(Config):
    """One server: a supervisor and its workers.

    Attributes:
        bundles: folder of versions, with CURRENT.
        redis_url: the feature store; None starts an embedded one.
        namespace: prefix of every key in the store.
        store_dir: where the embedded store persists; None = beside the bundles.
        durable_events: whether the embedded store has an event on disk before it answers, not within a second after.
        listen, admin, metrics: addresses; None turns admin or metrics off.
        workers: processes; each takes one core.
        max_in_flight: calls a worker works on at once; one more is refused.
        user_cache_mb: memory of a worker for the vectors of users who come back; 0 = none are kept.
        store_timeout_ms: a read of the store that takes longer counts as a fault.
        default_deadline_ms: time a call may take when its caller named none.
        drain_seconds: how long calls in flight may take to finish after SIGTERM.
        drain_notice_seconds: how long calls are still taken after health says NOT_SERVING, so that
            a load balancer can see it.
        poll_seconds: how often CURRENT is looked at.
        activation_seconds: how long all workers together may take to serve a bundle.
    """

    bundles: Path
    redis_url: str | None = Field(default=None, repr=False)
    namespace: str = "recsys"
    store_dir: Path | None = None
    durable_events: bool = False
    listen: Address
    admin: Address | None = None
    metrics: Address | None = None
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=256)
    max_in_flight: int = Field(default=128, ge=1, le=100_000)
    user_cache_mb: int = Field(default=64, ge=0, le=1_000_000)
    store_timeout_ms: int = Field(default=250, ge=1, le=60_000)
    default_deadline_ms: int = Field(default=10_000, ge=1, le=600_000)
    drain_seconds: float = Field(default=10.0, ge=0, le=600)
    drain_notice_seconds: float = Field(default=0.5, ge=0, le=600)
    poll_seconds: float = Field(default=0.5, gt=0, le=60)
    activation_seconds: float = Field(default=120.0, gt=0, le=3600)
    credentials: Credentials = Credentials()
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class WorkerSettings(Config):
    """What the supervisor tells one worker, over its control channel.

    Attributes:
        serve: the server's settings, with the port that was really taken and the store's real URL.
        last_good: version to serve when the one that CURRENT names is refused.
    """

    serve: ServeSettings
    last_good: str | None = None

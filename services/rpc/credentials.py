"""Who may call: TLS and mTLS for the connection, bearer tokens for the caller. No secret reaches a log."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from recsys.errors import UsageError
from services.rpc.settings import Address, Credentials

TOKENS_VARIABLE: Final = "RECSYS_TOKENS"
"""Environment variable with the server's tokens, `NAME TOKEN` pairs separated by commas or lines."""

_OPEN_SERVICES: Final = ("/grpc.health.v1.Health/",)
"""What load balancers ask needs no token."""


class BearerAuth(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuses calls that show none of the tokens, with UNAUTHENTICATED.

    Args:
        digests: SHA-256 of each token; tokens themselves are not kept.
    """

    def __init__(self, digests: Sequence[bytes]) -> None:
        self._digests = tuple(digests)
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Passes the call on, or answers it with the refusal."""
        if handler_call_details.method.startswith(_OPEN_SERVICES) or self._shown(handler_call_details):
            return await continuation(handler_call_details)
        return self._refusal

    def _shown(self, details: grpc.HandlerCallDetails) -> bool:
        for key, value in details.invocation_metadata or ():
            if key == "authorization":
                kind, _, token = str(value).partition(" ")
                digest = _digest(token.strip())
                # Every digest is compared in constant time, so that timing tells nothing.
                matches = [hmac.compare_digest(digest, known) for known in self._digests]
                return kind.lower() == "bearer" and any(matches)
        return False


async def _refuse(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    reason = "authorization: must be `Bearer TOKEN` with a token of this server"
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)


def interceptors(credentials: Credentials) -> list[grpc.aio.ServerInterceptor[Any, Any]]:
    """The interceptor that checks tokens, none when the server has none.

    Raises:
        UsageError: a token file that cannot be read or holds no token.
    """
    digests = _read_tokens(credentials.tokens)
    return [BearerAuth(digests)] if digests else []


def add_port(server: grpc.aio.Server, address: Address, credentials: Credentials) -> int:
    """Lets a server listen, with TLS when there is a certificate; returns the port.

    Raises:
        UsageError: a certificate or key that is missing or cannot be read, or a port that cannot be taken.
    """
    tls = _server_credentials(credentials)
    try:
        port = server.add_secure_port(str(address), tls) if tls else server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise UsageError(f"{address}: cannot listen there ({error})") from None
    return port


def check(credentials: Credentials) -> None:
    """Reads all that the credentials name, once, before anything is started.

    Raises:
        UsageError: as `interceptors` and `add_port`.
    """
    interceptors(credentials)
    _server_credentials(credentials)


def _server_credentials(credentials: Credentials) -> grpc.ServerCredentials | None:
    if credentials.tls_cert is None and credentials.tls_key is None:
        if credentials.tls_client_ca is not None:
            raise UsageError("--tls-client-ca: give --tls-cert and --tls-key as well")
        return None
    if credentials.tls_cert is None or credentials.tls_key is None:
        missing = "--tls-key" if credentials.tls_key is None else "--tls-cert"
        raise UsageError(f"{missing} is missing: a certificate and its key go together")
    pair = (_read(credentials.tls_key, "--tls-key"), _read(credentials.tls_cert, "--tls-cert"))
    authority = None if credentials.tls_client_ca is None else _read(credentials.tls_client_ca, "--tls-client-ca")
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def _read_tokens(path: Path | None) -> list[bytes]:
    if path is not None:
        source, text = f"--tokens {path}", _read(path, "--tokens").decode("utf-8", "replace")
    else:
        source, text = TOKENS_VARIABLE, os.environ.get(TOKENS_VARIABLE, "").replace(",", "\n")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if any(len(parts) != 2 for parts in lines):
        raise UsageError(f"{source}: write one client a line, as NAME TOKEN")
    if path is not None and not lines:
        raise UsageError(f"{source}: holds no token; write one client a line, as NAME TOKEN")
    return [_digest(token) for _, token in lines]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot be read ({error.strerror})") from None

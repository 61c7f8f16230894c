"""What every call goes through: the bound on calls in flight, its deadline, counting, and refusals."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import structlog
from grpc import StatusCode
from grpc.aio import AbortError, ServicerContext

from recsys.errors import OverloadError, RecsysError
from recsys.types import Deadline
from services.rpc.measurements import CALL_SECONDS, CALLS, Measurements
from services.rpc.refusals import code_of

log = structlog.get_logger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")

REQUEST_ID: str = "x-request-id"
"""Trailing metadata of a refusal: what to look for in the server's logs."""


class Admission:
    """Admits calls up to a bound, and sees to it that each ends in an answer or a named refusal.

    Args:
        limit: calls in flight at once.
        default_deadline: seconds for a call whose caller named no deadline.
        measurements: where calls are counted.
    """

    def __init__(self, limit: int, default_deadline: float, measurements: Measurements) -> None:
        self._limit = limit
        self._default_deadline = default_deadline
        self._measurements = measurements
        self._closed = False
        self.in_flight = 0

    def close(self) -> None:
        """Refuses every call from now on, with a code that sends clients to another server."""
        self._closed = True

    async def admit(
        self,
        rpc: str,
        request: Request,
        context: ServicerContext[Any, Any],
        answer: Callable[[Request, Deadline], Awaitable[Response]],
    ) -> Response:
        """Answers one call, or refuses it with the code of its error."""
        if self._closed:
            await self._refuse(rpc, request, context, StatusCode.UNAVAILABLE, "the server is stopping; ask another")
        started = time.perf_counter()
        code = "OK"
        self.in_flight += 1
        try:
            if self.in_flight > self._limit:
                raise OverloadError(f"{self._limit} calls are in flight on this worker, its bound; try again later")
            remaining = context.time_remaining()
            deadline = Deadline.after(self._default_deadline if remaining is None else remaining)
            return await answer(request, deadline)
        except RecsysError as error:
            code = code_of(error).name
            await self._refuse(rpc, request, context, code_of(error), str(error))
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except AbortError:
            raise
        # Whatever else goes wrong must not end the worker nor show a caller its insides.
        except Exception:
            code = "INTERNAL"
            request_id = _request_id(request)
            log.exception("call_failed", rpc=rpc, request_id=request_id)
            await self._refuse(rpc, request, context, StatusCode.INTERNAL, f"internal error, logged as {request_id}")
        finally:
            self.in_flight -= 1
            self._measurements.count(CALLS, rpc, code)
            self._measurements.observe(CALL_SECONDS, time.perf_counter() - started, rpc)

    async def _refuse(
        self, rpc: str, request: object, context: ServicerContext[Any, Any], code: StatusCode, reason: str
    ) -> NoReturn:
        request_id = _request_id(request)
        log.debug("call_refused", rpc=rpc, code=code.name, reason=reason, request_id=request_id)
        await context.abort(code, reason, trailing_metadata=((REQUEST_ID, request_id),))


def _request_id(request: object) -> str:
    given = getattr(request, "request_id", "")
    return given if given.isascii() and given.isprintable() and given else uuid.uuid4().hex

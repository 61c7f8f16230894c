"""Every call ends in an answer or in a refusal with the right code; none waits in an endless queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AbortError

from recsys import errors
from recsys.types import Deadline
from services.pb import recsys_pb2 as pb
from services.rpc.admission import REQUEST_ID, Admission
from services.rpc.measurements import CALLS, Measurements
from services.rpc.refusals import CODES, code_of


class Context:
    """What a call has of gRPC's context."""

    def __init__(self, remaining: float | None = None) -> None:
        self.remaining = remaining
        self.aborted: tuple[StatusCode, str, dict[str, str]] | None = None

    def time_remaining(self) -> float | None:
        return self.remaining

    async def abort(self, code: StatusCode, details: str, trailing_metadata: tuple = ()) -> None:
        self.aborted = (code, details, dict(trailing_metadata))
        raise AbortError


def admit(admission: Admission, answer: Any, context: Context, request: Any = None) -> Any:
    return admission.admit("Recall", request or pb.RecallRequest(), context, answer)  # type: ignore[arg-type]


@pytest.fixture
def admission() -> Admission:
    return Admission(limit=2, default_deadline=5.0, measurements=Measurements())


def raising(error: Exception) -> Any:
    async def answer(request: object, deadline: Deadline) -> None:
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RequestError("k", 0, "must be at least 1"), StatusCode.INVALID_ARGUMENT),
        (errors.DataError("bad"), StatusCode.INVALID_ARGUMENT),
        (errors.PreconditionError("no"), StatusCode.FAILED_PRECONDITION),
        (errors.BundleError("no"), StatusCode.FAILED_PRECONDITION),
        (errors.MissingPartError("no"), StatusCode.FAILED_PRECONDITION),
        (errors.OverloadError("full"), StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineError("late"), StatusCode.DEADLINE_EXCEEDED),
        (errors.StoreError("away"), StatusCode.UNAVAILABLE),
        (errors.TrainingError("no"), StatusCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
async def test_each_error_has_its_code(admission: Admission, error: errors.RecsysError, code: StatusCode) -> None:
    context = Context()
    with pytest.raises(AbortError):
        await admit(admission, raising(error), context)
    assert context.aborted is not None
    assert context.aborted[:2] == (code, str(error))


def test_every_branch_of_the_error_tree_has_a_row_of_its_own() -> None:
    branches = set(errors.RecsysError.__subclasses__()) - {errors.TrainingError}
    assert branches <= {kind for kind, _ in CODES}
    assert code_of(errors.RecsysError("?")) is StatusCode.INTERNAL


async def test_what_nobody_expected_is_internal_and_tells_callers_nothing(admission: Admission) -> None:
    context = Context()
    with pytest.raises(AbortError):
        await admit(admission, raising(ZeroDivisionError("secret")), context, pb.RecallRequest(request_id="abc"))
    assert context.aborted is not None
    code, details, trailing = context.aborted
    assert code is StatusCode.INTERNAL
    assert "secret" not in details
    assert trailing[REQUEST_ID] == "abc"


async def test_a_call_beyond_the_bound_is_refused_at_once_and_others_go_on(admission: Admission) -> None:
    gate = asyncio.Event()

    async def wait(request: object, deadline: Deadline) -> str:
        await gate.wait()
        return "answer"

    under_way = [asyncio.create_task(admit(admission, wait, Context())) for _ in range(2)]
    await asyncio.sleep(0)
    assert admission.in_flight == 2
    context = Context()
    with pytest.raises(AbortError):
        await admit(admission, wait, context)
    assert context.aborted is not None
    assert context.aborted[0] is StatusCode.RESOURCE_EXHAUSTED
    assert "2 calls" in context.aborted[1]
    gate.set()
    assert await asyncio.gather(*under_way) == ["answer", "answer"]
    assert admission.in_flight == 0


async def test_the_deadline_is_the_callers_or_the_default(admission: Admission) -> None:
    async def remaining(request: object, deadline: Deadline) -> float:
        return deadline.remaining

    assert 0 < await admit(admission, remaining, Context(0.5)) <= 0.5
    assert 4 < await admit(admission, remaining, Context()) <= 5


async def test_an_abandoned_call_stops_and_leaves_its_place(admission: Admission) -> None:
    async def never(request: object, deadline: Deadline) -> None:
        await asyncio.Event().wait()

    call = asyncio.create_task(admit(admission, never, Context()))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert admission.in_flight == 0
    assert admission._measurements.counters[CALLS, ("Recall", "CANCELLED")] == 1


async def test_a_stopping_server_sends_callers_to_another_one(admission: Admission) -> None:
    admission.close()
    context = Context()
    with pytest.raises(AbortError):
        await admit(admission, raising(ZeroDivisionError()), context)
    assert context.aborted is not None
    assert context.aborted[0] is StatusCode.UNAVAILABLE

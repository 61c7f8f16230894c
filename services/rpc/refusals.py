"""One table from the library's errors to gRPC's codes."""

from __future__ import annotations

from typing import Final

from grpc import StatusCode

from recsys.errors import (
    DeadlineError,
    InputError,
    MissingPartError,
    OverloadError,
    PreconditionError,
    RecsysError,
    StoreError,
)

CODES: Final[tuple[tuple[type[RecsysError], StatusCode], ...]] = (
    (InputError, StatusCode.INVALID_ARGUMENT),
    (PreconditionError, StatusCode.FAILED_PRECONDITION),
    (MissingPartError, StatusCode.FAILED_PRECONDITION),
    (OverloadError, StatusCode.RESOURCE_EXHAUSTED),
    (DeadlineError, StatusCode.DEADLINE_EXCEEDED),
    (StoreError, StatusCode.UNAVAILABLE),
    (RecsysError, StatusCode.INTERNAL),
)
"""The first row whose class fits counts."""


def code_of(error: RecsysError) -> StatusCode:
    """The gRPC code that an error is answered with."""
    return next(code for kind, code in CODES if isinstance(error, kind))

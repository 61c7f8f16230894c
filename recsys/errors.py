"""Every error that this project raises on purpose.

    RecsysError                    exit code 1, gRPC INTERNAL
    ├── InputError                 exit code 2, INVALID_ARGUMENT: what a caller gave is wrong
    │   ├── UsageError             a flag or a command line
    │   ├── ConfigError            a configuration key or value
    │   ├── DataError              a file, a row, a column
    │   └── RequestError           a field of an RPC: names field, value and bound
    ├── PreconditionError          exit code 2, FAILED_PRECONDITION: right question, wrong state
    │   ├── BundleError            a bundle or component that is missing, altered or unfit
    │   └── FeatureMismatchError   two parts were made for different feature sets or catalogues
    ├── MissingPartError           exit code 2, FAILED_PRECONDITION: something is not installed
    ├── OverloadError              exit code 1, RESOURCE_EXHAUSTED
    ├── DeadlineError              exit code 1, DEADLINE_EXCEEDED
    ├── StoreError                 exit code 1, UNAVAILABLE: the feature store does not answer
    └── TrainingError              exit code 1: a step of a pipeline failed

Each message says what was wrong, with the value, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class RecsysError(Exception):
    """Base of the tree; `exit_code` is what a command ends with."""

    exit_code: ClassVar[int] = 1


class InputError(RecsysError):
    """What a caller gave is wrong; giving it again will fail again."""

    exit_code = 2


class UsageError(InputError):
    """A command line that cannot be carried out."""


class ConfigError(InputError):
    """An unknown configuration key, or a value out of its bounds."""


class DataError(InputError):
    """A file, row or column that cannot be read as what it was said to be."""


class RequestError(InputError):
    """A field of a request that is out of bounds.

    Args:
        field: name of the field as the wire knows it.
        value: what was given.
        bound: what would have been right, as a clause ("must be between 1 and 1000").
    """

    def __init__(self, field: str, value: object, bound: str) -> None:
        self.field, self.value, self.bound = field, value, bound
        super().__init__(f"{field} = {value!r}: {bound}")


class PreconditionError(RecsysError):
    """A sensible request that the present state cannot serve."""

    exit_code = 2


class BundleError(PreconditionError):
    """A bundle or component that is missing, altered or cannot be opened."""


class FeatureMismatchError(PreconditionError):
    """Two parts were made for different feature sets or catalogues."""


class MissingPartError(RecsysError):
    """A package or program that this verb needs is not installed; says how to get it."""

    exit_code = 2


class OverloadError(RecsysError):
    """More requests in flight than the server takes; try again later."""


class DeadlineError(RecsysError):
    """The caller's time ran out; the work was abandoned."""


class StoreError(RecsysError):
    """The feature store cannot be reached or does not answer in time."""


class TrainingError(RecsysError):
    """A step of a training pipeline failed."""

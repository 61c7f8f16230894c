"""A line of `recsys doctor`: what was looked at, what was found, and how to get what is not there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How things stand."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        group: heading it stands under.
        name: what was looked at.
        state: MISSING = needed and not there, WARNING = not needed, or there and questionable.
        found: what there is, in a few words.
        advice: what to do; empty where all is well.
    """

    group: str
    name: str
    state: State
    found: str
    advice: str = ""


def ok(group: str, name: str, found: str) -> Finding:
    """All is well."""
    return Finding(group, name, State.OK, found)


def warning(group: str, name: str, found: str, advice: str) -> Finding:
    """Works without, or works badly."""
    return Finding(group, name, State.WARNING, found, advice)


def missing(group: str, name: str, found: str, advice: str, *, needed: bool = True) -> Finding:
    """Not there; only a warning where it is not needed."""
    return Finding(group, name, State.MISSING if needed else State.WARNING, found, advice)

"""What a worker counts while it serves, cheap enough for every call, and how counts of many workers add up.

A worker keeps plain numbers; the supervisor asks each for a snapshot when Prometheus comes by, adds
them up and keeps those of workers that are gone, so that no counter ever falls.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Key: TypeAlias = tuple[str, tuple[str, ...]]
"""Name of a metric and the values of its labels."""

SECONDS: Final = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of all histograms' buckets: calls and their parts take 50 µs to seconds."""

CALLS: Final = "recsys_calls"
CALL_SECONDS: Final = "recsys_call_seconds"
PART_SECONDS: Final = "recsys_part_seconds"
CHANNEL_SECONDS: Final = "recsys_channel_seconds"
CHANNEL_ANSWERS: Final = "recsys_channel_answers"
USER_VECTORS: Final = "recsys_user_vectors"
STORE_ERRORS: Final = "recsys_store_errors"
DEGRADED: Final = "recsys_degraded_answers"
EVENTS: Final = "recsys_events"
BUNDLES_REFUSED: Final = "recsys_bundles_refused"

COUNTERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    CALLS: ("Calls answered.", ("rpc", "code")),
    CHANNEL_ANSWERS: ("Answers of a retrieval channel by how it took part.", ("channel", "status")),
    USER_VECTORS: ("Vectors of users that channels needed, by where they came from.", ("channel", "source")),
    STORE_ERRORS: ("Reads and writes of the feature store that failed.", ("operation",)),
    DEGRADED: ("Answers given in spite of a fault.", ("fault",)),
    EVENTS: ("Events received.", ("outcome",)),
    BUNDLES_REFUSED: ("Bundles that a worker would not serve.", ()),
}
"""Name → help, names of its labels."""

HISTOGRAMS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    CALL_SECONDS: ("Time from a call's arrival to its answer.", ("rpc",)),
    PART_SECONDS: ("Time of one part of a call.", ("part",)),
    CHANNEL_SECONDS: ("Time of one retrieval channel.", ("channel",)),
}


@dataclass(slots=True)
class Histogram:
    """Counts by bucket (the last one has no upper bound) and the sum of what was observed."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Adds one value."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def add(self, other: Histogram) -> None:
        """Adds all that another histogram holds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


@dataclass(slots=True)
class Measurements:
    """Counters and histograms by name and labels."""

    counters: defaultdict[Key, int] = field(default_factory=lambda: defaultdict(int))
    histograms: defaultdict[Key, Histogram] = field(default_factory=lambda: defaultdict(Histogram))

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Raises a counter."""
        self.counters[name, labels] += by

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Adds one value to a histogram."""
        self.histograms[name, labels].observe(seconds)

    def total(self, name: str) -> int:
        """A counter, summed over its labels."""
        return sum(value for (counter, _), value in self.counters.items() if counter == name)

    def calls(self, *, failed: bool) -> int:
        """Calls answered; with `failed`, only those that ended with another code than OK."""
        return sum(
            value
            for (name, labels), value in self.counters.items()
            if name == CALLS and (not failed or labels[1] != "OK")
        )

    def to_json(self) -> dict[str, Any]:
        """For the way to the supervisor."""
        return {
            "counters": [[name, list(labels), value] for (name, labels), value in self.counters.items()],
            "histograms": [[name, list(labels), h.counts, h.sum] for (name, labels), h in self.histograms.items()],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Measurements:
        """Reads what `to_json` wrote."""
        read = cls()
        for name, labels, value in values["counters"]:
            read.counters[name, tuple(labels)] = value
        for name, labels, counts, total in values["histograms"]:
            read.histograms[name, tuple(labels)] = Histogram(counts, total)
        return read

    @classmethod
    def merged(cls, parts: Iterable[Measurements]) -> Measurements:
        """The sum of several."""
        whole = cls()
        for part in parts:
            for key, value in part.counters.items():
                whole.counters[key] += value
            for key, histogram in part.histograms.items():
                whole.histograms[key].add(histogram)
        return whole

"""The interests of a channel that has several a user: how many there really are, how unlike, and what they find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.interactions import EvaluationSet
from recsys.evaluate.ranking import batches
from recsys.evaluate.results import Progress
from recsys.retrieval.channel import Channel
from recsys.types import Floats, Offsets, Rows, Users

LENGTH: Final = 50
"""Length of the lists looked at."""
_ROUNDING: Final = 1e-5
"""Scores nearer to each other than this share of the vectors' lengths differ by rounding alone."""


@runtime_checkable
class InterestChannel(Channel, Protocol):
    """A channel that scores an item by the best of several vectors of a user."""

    def interests(self, users: Users) -> tuple[Floats, Offsets]:
        """(B, K, d) vectors and (B,) how many of them each user really has, K' from 1 to K."""
        ...

    def item_vectors(self, rows: Rows) -> Floats:
        """(M, d) vectors of catalogue rows; the product with an interest is the score."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One test event.

    Attributes:
        m: its number.
        rows: the list, best first.
        found_by: aligned with `rows`, which interest found each; 0 = the one that found most of the list.
        there: how many interests the user has, K'.
        participation: how many of them stand apart (see `participation`).
        cosine: mean over their pairs; NaN of one alone.
        hit: place of the target in the list, -1 when it is not there.
    """

    m: int
    rows: Rows
    found_by: NDArray[np.int64]
    there: int
    participation: float
    cosine: float
    hit: int

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K',) share of the list that each interest found, the largest first."""
        counts = np.bincount(self.found_by, minlength=self.there)
        return counts / max(len(self.rows), 1)

    @property
    def hit_by_later(self) -> bool:
        """Whether the target was found, and not by the interest that found most of the list."""
        return self.hit >= 0 and bool(self.found_by[self.hit] > 0)


def ask(
    channel: InterestChannel, events: EvaluationSet, attributes: pl.DataFrame | None, progress: Progress
) -> Iterator[Asked]:
    """Each test event that the channel has a list for."""
    for start, users in batches(events, attributes):
        vectors, counts = channel.interests(users)
        lists = channel.recall(users, LENGTH, events.eligible)
        apart = _without_bias(vectors)
        for b in range(len(users)):
            rows, _ = lists.of(b)
            if len(rows):
                there = int(counts[b])
                found_by = _by_share(_best(channel.item_vectors(rows), vectors[b, :there]), there)
                yield _asked(start + b, rows, found_by, apart[b, :there], int(events.target[start + b]))
        progress.advance(len(users))


def _asked(m: int, rows: Rows, found_by: NDArray[np.int64], interests: Floats, target: int) -> Asked:
    places = np.flatnonzero(rows == target)
    gram = _cosines(interests)
    return Asked(
        m=m,
        rows=rows,
        found_by=found_by,
        there=len(interests),
        participation=participation(gram),
        cosine=mean_cosine(gram),
        hit=int(places[0]) if len(places) else -1,
    )


def effective_number(shares: NDArray[np.float64]) -> float:
    """Exp of the entropy of shares: as many as there are when they are equal, 1 when one has all."""
    there = shares[shares > 0]
    return float(np.exp(-(there * np.log(there)).sum()))


def participation(cosines: NDArray[np.float64]) -> float:
    """Participation ratio (Σλ)² / Σλ² of the (n, n) cosines' eigenvalues: n at right angles, 1 for one direction."""
    return float(np.trace(cosines) ** 2 / np.square(cosines).sum())


def mean_cosine(cosines: NDArray[np.float64]) -> float:
    """Mean over the pairs of different vectors; NaN of one alone."""
    n = len(cosines)
    return float((cosines.sum() - np.trace(cosines)) / (n * (n - 1))) if n > 1 else float("nan")


def _cosines(vectors: Floats) -> NDArray[np.float64]:
    """(n, n) of n vectors."""
    wide = vectors.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    cosines: NDArray[np.float64] = unit @ unit.T
    return cosines


def _without_bias(vectors: Floats) -> Floats:
    """The vectors less a last coordinate that is 1 for all: it carries the items' biases and says nothing of users."""
    return vectors[:, :, :-1] if (vectors[:, :, -1] == 1.0).all() else vectors


def _best(items: Floats, interests: Floats) -> NDArray[np.int64]:
    """(M,) the interest with the greatest score of each item, the first of those that differ by rounding alone.

    Else interests that are all alike would seem to share the list evenly.
    """
    scores = items @ interests.T
    lengths = np.linalg.norm(items, axis=1, keepdims=True) * np.linalg.norm(interests, axis=1).max()
    best: NDArray[np.int64] = np.argmax(scores >= scores.max(axis=1, keepdims=True) - _ROUNDING * lengths, axis=1)
    return best


def _by_share(found_by: NDArray[np.int64], there: int) -> NDArray[np.int64]:
    """The same interests, numbered by how much of the list they found."""
    order = np.argsort(-np.bincount(found_by, minlength=there), kind="stable")
    number = np.empty(there, np.int64)
    number[order] = np.arange(there)
    return number[found_by]


@dataclass(frozen=True, slots=True)
class Group:
    """Test events of users with so many interests, or of all: means over them.

    Attributes:
        interests: K'; 0 for all.
        n: events.
        recall: share whose item is in the list of `LENGTH`.
        effective: effective number of interests, by what each found of the list.
        participation: effective number, by how far their vectors stand apart.
        cosine: mean pairwise; None for K' = 1.
        later_places: share of the lists' places that the second and later interests found.
        later_hits: share of the hits that they found; None without hits.
    """

    interests: int
    n: int
    recall: float
    effective: float
    participation: float
    cosine: float | None
    later_places: float
    later_hits: float | None

    @classmethod
    def of(cls, interests: int, asked: Sequence[Asked]) -> Group:
        """Of at least one event."""
        hits = sum(one.hit >= 0 for one in asked)
        cosines = [one.cosine for one in asked if one.there > 1]
        return cls(
            interests=interests,
            n=len(asked),
            recall=hits / len(asked),
            effective=float(np.mean([effective_number(one.shares) for one in asked])),
            participation=float(np.mean([one.participation for one in asked])),
            cosine=float(np.mean(cosines)) if cosines else None,
            later_places=float(np.mean([1.0 - one.shares[0] for one in asked])),
            later_hits=sum(one.hit_by_later for one in asked) / hits if hits else None,
        )

    def as_json(self) -> dict[str, Any]:
        """The group's entry in report.json."""
        return {
            "interests": self.interests,
            "n": self.n,
            f"recall@{LENGTH}": round(self.recall, 6),
            "effective_by_share": round(self.effective, 4),
            "effective_by_vectors": round(self.participation, 4),
            "mean_cosine": None if self.cosine is None else round(self.cosine, 4),
            "later_share_of_places": round(self.later_places, 6),
            "later_share_of_hits": None if self.later_hits is None else round(self.later_hits, 6),
        }


def groups(asked: Sequence[Asked]) -> tuple[Group, list[Group]]:
    """All events, and those of each K' there is."""
    by: dict[int, list[Asked]] = {}
    for one in asked:
        by.setdefault(one.there, []).append(one)
    return Group.of(0, asked), [Group.of(there, by[there]) for there in sorted(by)]

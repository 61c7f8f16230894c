"""Interests: planted ones are counted, and each item of a list belongs to the interest that found it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.columns import ITEM_ID
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.evaluate.interest_study import InterestStudy, interest_study
from recsys.evaluate.interests import (
    LENGTH,
    Asked,
    InterestChannel,
    ask,
    effective_number,
    mean_cosine,
    participation,
)
from recsys.evaluate.results import Quiet
from recsys.retrieval.static_channel import StaticChannel
from recsys.types import Candidates, Deadline, Floats, Offsets, RowMask, Rows, Users, offsets_of

ITEMS = 200


class Halves:
    """Items 0 to 99 lie along the first axis, 100 to 199 along the second, the lower a row the longer its vector.

    An interest is the axis of an item; a user whose history lies in both halves has two, the newest item's first, and
    by a weight below 1 finds fewer items of the second. The third coordinate carries biases, all 0.
    """

    name = "halves"

    def __init__(self, weight: float = 1.0) -> None:
        self._weight = weight
        self._vectors = np.zeros((ITEMS, 3), np.float32)
        rows = np.arange(ITEMS)
        self._vectors[rows, rows // 100] = 2.0 - (rows % 100) / 100

    def interests(self, users: Users) -> tuple[Floats, Offsets]:
        vectors = np.zeros((len(users), 2, 3), np.float32)
        vectors[:, :, 2] = 1.0
        counts = np.ones(len(users), np.int64)
        for b in range(len(users)):
            halves = list(dict.fromkeys((users.history[b][::-1] // 100).tolist()))
            vectors[b, :, halves[0]] = 1.0
            if len(halves) > 1:
                counts[b] = 2
                vectors[b, 1, halves] = 0.0, self._weight
        return vectors, counts

    def item_vectors(self, rows: Rows) -> Floats:
        return self._vectors[rows]

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        scores = (self.interests(users)[0] @ self._vectors.T).max(axis=1)
        for b in range(len(users)):
            scores[b, users.excluded[b]] = -np.inf
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return Candidates.from_matrix(rows, np.take_along_axis(scores, rows, axis=1))


def events_of(*histories: list[int]) -> EvaluationSet:
    """The last item of each list is the target."""
    rows = np.array([row for history in histories for row in history], np.int32)
    offsets = offsets_of([len(history) for history in histories])
    sequences = Interactions(np.arange(len(histories)), offsets, rows, np.arange(len(rows), dtype=np.int64))
    ends = sequences.lengths.astype(np.int32) - 1
    return EvaluationSet(sequences, np.arange(len(histories), dtype=np.int32), ends, rows[offsets[1:] - 1])


def asked_of(channel: InterestChannel, *histories: list[int]) -> list[Asked]:
    return list(ask(channel, events_of(*histories), None, Quiet()))


@pytest.fixture
def catalogue() -> Catalogue:
    kinds = [["<left>", "odd"] if row % 2 else ["<left>"] for row in range(100)] + [["right"]] * 100
    titles = [f"title {row}" for row in range(ITEMS)]
    return Catalogue(pl.DataFrame({ITEM_ID: np.arange(ITEMS), "title": titles, "genres": kinds}))


def study_of(catalogue: Catalogue, *histories: list[int], weight: float = 1.0) -> InterestStudy:
    channels = {"halves": Halves(weight), "popularity": StaticChannel("popularity", np.zeros(ITEMS, np.float32))}
    found = interest_study(channels, events_of(*histories), catalogue, None, Quiet())
    assert found is not None
    return found


def test_the_effective_number_is_that_of_equal_shares() -> None:
    assert effective_number(np.array([0.25, 0.25, 0.25, 0.25])) == pytest.approx(4)
    assert effective_number(np.array([1.0, 0.0, 0.0])) == 1
    assert 1 < effective_number(np.array([0.9, 0.1])) < 2


def test_vectors_at_right_angles_count_each_and_equal_ones_once() -> None:
    assert participation(np.eye(3)) == pytest.approx(3)
    assert participation(np.ones((3, 3))) == pytest.approx(1)
    assert mean_cosine(np.array([[1.0, 0.3], [0.3, 1.0]])) == pytest.approx(0.3)
    assert math.isnan(mean_cosine(np.ones((1, 1))))


def test_planted_interests_are_two_and_apart_whatever_carries_the_biases() -> None:
    both, one = asked_of(Halves(), [50, 150, 3], [60, 61, 4])
    assert (both.there, one.there) == (2, 1)
    assert (both.participation, one.participation) == (pytest.approx(2), pytest.approx(1))
    assert both.cosine == pytest.approx(0)
    assert sorted(both.shares.tolist()) == [0.5, 0.5]
    assert effective_number(both.shares) == pytest.approx(2)
    assert effective_number(one.shares) == 1


def test_an_item_belongs_to_the_interest_that_gives_it_most() -> None:
    (both,) = asked_of(Halves(), [50, 150, 3])
    halves = [set((both.rows[both.found_by == j] // 100).tolist()) for j in range(2)]
    assert halves in ([{0}, {1}], [{1}, {0}])


class Alike(Halves):
    """Two interests that differ by rounding alone, of which now one, now the other gives an item a little more."""

    def item_vectors(self, rows: Rows) -> Floats:
        vectors = self._vectors[rows].copy()
        vectors[:, 1] += np.where(rows % 2, 0.5, -0.5)
        return vectors

    def interests(self, users: Users) -> tuple[Floats, Offsets]:
        vectors, counts = super().interests(users)
        vectors[:, 1] = vectors[:, 0]
        vectors[:, 1, 1] += 1e-6
        return vectors, np.full_like(counts, 2)


def test_interests_that_differ_by_rounding_alone_count_as_one() -> None:
    (found,) = asked_of(Alike(), [50, 60, 3])
    assert found.there == 2
    assert effective_number(found.shares) == 1
    assert found.participation == pytest.approx(1)
    assert found.cosine == pytest.approx(1)
    assert found.hit >= 0
    assert not found.hit_by_later


def test_the_first_interest_is_the_one_that_found_most_of_the_list() -> None:
    """The newest item, row 150, gives the first vector; the other one, of weight 0.8, finds the fewer rows."""
    far, near = asked_of(Halves(0.8), [50, 150, 3], [50, 150, 103])
    assert far.shares[0] > 0.5
    assert set((far.rows[far.found_by == 0] // 100).tolist()) == {1}
    assert far.hit >= 0
    assert far.hit_by_later
    assert near.hit >= 0
    assert not near.hit_by_later


def test_shares_of_places_and_hits_are_those_of_the_events(catalogue: Catalogue) -> None:
    found = study_of(catalogue, [50, 150, 3], [50, 150, 103], [60, 61, 4], [60, 61, 199], weight=0.8).channels["halves"]
    assert [group.interests for group in found.groups] == [1, 2]
    assert [group.n for group in found.groups] == [2, 2]
    assert [group.recall for group in found.groups] == [0.5, 1.0]
    assert [group.later_hits for group in found.groups] == [0.0, 0.5]
    assert [group.cosine for group in found.groups] == [None, pytest.approx(0)]
    assert found.groups[0].later_places == 0.0
    assert 0 < found.groups[1].later_places < 0.5
    assert found.whole.recall == 0.75
    assert found.whole.later_hits == pytest.approx(1 / 3)


def test_examples_name_the_items_of_each_interest_with_their_kinds(catalogue: Catalogue) -> None:
    study = study_of(catalogue, [50, 150, 3], weight=0.8)
    (example,) = study.channels["halves"].examples
    assert [item.title for item in example.history] == ["title 50", "title 150"]
    assert [interest.found for interest in example.interests] == sorted(
        (interest.found for interest in example.interests), reverse=True
    )
    assert sum(interest.found for interest in example.interests) == LENGTH
    first, second = (interest.items[0] for interest in example.interests)
    assert (first.title, first.categories) == ("title 100", "right")
    assert (second.title, second.categories) == ("title 0", "<left>")
    page = "".join(getattr(block, "markup", "") for block in study.section().blocks)
    assert "&lt;left&gt;, odd" in page
    assert 'class="hit">title 3' in page


def test_only_channels_with_interests_are_looked_into(catalogue: Catalogue, tmp_path: Path) -> None:
    assert list(study_of(catalogue, [50, 150, 3]).channels) == ["halves"]
    popularity = StaticChannel("popularity", np.zeros(ITEMS, np.float32))
    assert interest_study({"popularity": popularity}, events_of([1, 2]), catalogue, None, Quiet()) is None


def test_the_entry_of_report_json_has_every_number_of_interests(catalogue: Catalogue) -> None:
    entry = study_of(catalogue, [50, 150, 3], [60, 61, 4]).as_json()["halves"]
    assert [group["interests"] for group in entry["by_number"]] == [1, 2]
    assert entry["effective_by_vectors"] == pytest.approx(1.5, abs=1e-3)
    assert entry["mean_cosine"] == pytest.approx(0)

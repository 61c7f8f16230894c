from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.columns import USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.interactions import EvaluationSet, Interactions, attribute_columns
from recsys.testing.toy import HISTORIES, toy_events, toy_items, toy_users, write_toy


@pytest.fixture
def toy(tmp_path: Path) -> Interactions:
    dataset = write_toy(tmp_path / "toy")
    return Interactions.from_events(dataset.events(), Catalogue.from_dataset(dataset))


def test_a_sequence_is_what_a_user_clicked_or_converted_in_order(toy: Interactions) -> None:
    assert toy.user_ids.tolist() == [1, 2, 3, 4, 5, 6]
    for user, items in enumerate(HISTORIES.values()):
        assert [10 * (row + 1) for row in toy.of(user)] == items
    assert (np.diff(toy.timestamps_ms)[np.diff(toy.user_of()) == 0] > 0).all()


def test_the_order_of_events_given_does_not_matter(toy: Interactions) -> None:
    shuffled = Interactions.from_events(toy_events().sample(fraction=1.0, shuffle=True, seed=0), Catalogue(toy_items()))
    assert shuffled.rows.tolist() == toy.rows.tolist()


def test_events_of_items_outside_the_catalogue_are_left_out(toy: Interactions) -> None:
    smaller = Interactions.from_events(toy_events(), Catalogue(toy_items().filter(pl.col("item_id") >= 20)))
    assert smaller.user_ids.tolist() == [1, 2, 3, 4, 6]
    assert smaller.size == toy.size - 3


def test_no_event_gives_no_sequence() -> None:
    empty = Interactions.from_events(toy_events().clear(), Catalogue(toy_items()))
    assert (len(empty), empty.size, empty.offsets.tolist()) == (0, 0, [0])


def test_where_keeps_the_marked_and_drops_users_without_any(toy: Interactions) -> None:
    kept = toy.where(toy.rows == 6)
    assert kept.user_ids.tolist() == [4, 6]
    assert kept.rows.tolist() == [6, 6]
    assert toy.where(np.ones(toy.size, bool)).offsets.tolist() == toy.offsets.tolist()


def test_first_occurrence_is_false_only_for_repeats() -> None:
    sequences = Interactions(
        np.array([1, 2]), np.array([0, 4, 6]), np.array([3, 0, 3, 0, 3, 3], np.int32), np.zeros(6, np.int64)
    )
    assert sequences.first_occurrence().tolist() == [True, True, False, False, True, False]


def test_a_batch_has_the_history_before_each_target(toy: Interactions) -> None:
    targets = EvaluationSet(
        toy, np.array([2, 0, 2], np.int32), np.array([4, 0, 2], np.int32), np.array([5, 0, 3], np.int32)
    )
    users = targets.users(0, 3, toy_users())
    assert [users.history[b].tolist() for b in range(3)] == [[1, 2, 3, 4], [], [1, 2]]
    assert [users.excluded[b].tolist() for b in range(3)] == [[1, 2, 3, 4], [], [1, 2]]
    assert users.ids.tolist() == [3, 1, 3]
    assert users.attributes == {"country": ["se", "fi", "se"], "age": [40, 20, 40]}
    assert [history.tolist() for history in [targets.users(1, 3).history[0], targets.users(1, 3).history[1]]] == [
        [],
        [1, 2],
    ]


def test_batches_past_the_end_are_shorter(toy: Interactions) -> None:
    targets = EvaluationSet(toy, np.array([0], np.int32), np.array([1], np.int32), np.array([1], np.int32))
    assert len(targets.users(0, 1000)) == 1
    assert len(targets.users(1, 1000)) == 0


def test_attributes_follow_the_ids_and_are_none_for_strangers() -> None:
    ids = np.array([6, 99, 1, 5], np.int64)
    expected = {"country": ["no", None, "fi", "no"], "age": [60, None, 20, None]}
    assert attribute_columns(toy_users(), ids) == expected
    assert attribute_columns(toy_users().reverse(), ids) == expected
    assert attribute_columns(toy_users().clear(), ids) == {"country": [None] * 4, "age": [None] * 4}
    assert attribute_columns(toy_users().select(USER_ID), ids) == {}

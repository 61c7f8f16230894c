"""Users of a bundle as batches: what the bundle knows of each, in rows, as a server would read it from its store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.bundle.bundle import Bundle, open_bundle
from recsys.bundle.user_batches import slices, users_of
from recsys.testing.toy import HISTORIES


@pytest.fixture
def bundle(bundles: Path) -> Bundle:
    return open_bundle(min(path for path in bundles.iterdir() if path.is_dir()))


def test_histories_and_exclusions_are_those_of_the_bundle_in_rows(bundle: Bundle) -> None:
    ids = np.array([3, 5, 4])
    users = users_of(bundle, ids)
    for b, user in enumerate(ids.tolist()):
        assert bundle.catalogue.ids[users.history[b]].tolist() == HISTORIES[user]
        assert bundle.catalogue.ids[users.excluded[b]].tolist() == sorted(HISTORIES[user])
    assert users.known.all()
    assert dict(users.attributes) == {"country": ["se", "no", "se"], "age": [40, None, 50]}


def test_seen_items_may_come_back_when_asked_for(bundle: Bundle) -> None:
    users = users_of(bundle, np.array([1, 2]), exclude_seen=False)
    assert len(users.excluded.values) == 0
    assert users.history.lengths.tolist() == [4, 3]


def test_a_user_whom_the_bundle_does_not_know_has_an_id_and_nothing_else(bundle: Bundle) -> None:
    users = users_of(bundle, np.array([-7, 2, 99]))
    assert users.ids.tolist() == [-7, 2, 99]
    assert users.history.lengths.tolist() == [0, 3, 0]
    assert users.excluded.lengths.tolist() == [0, 3, 0]
    assert dict(users.attributes) == {"country": [None, "fi", None], "age": [None, 30, None]}


def test_no_user_is_a_batch_too(bundle: Bundle) -> None:
    assert len(users_of(bundle, np.empty(0, np.int64))) == 0


def test_slices_are_the_chosen_lists_in_the_order_wanted() -> None:
    values, offsets = np.array([10, 11, 20, 30, 31, 32]), np.array([0, 2, 3, 3, 6])
    at, new = slices(offsets, np.array([3, 2, 0, 3]))
    assert values[at].tolist() == [30, 31, 32, 10, 11, 30, 31, 32]
    assert new.tolist() == [0, 3, 3, 5, 8]

"""ItemKNN: shrunk cosine of who chose both, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.interactions import Interactions
from recsys.recipes.item_knn import ItemKnnConfig, item_neighbours
from recsys.types import offsets_of


def interactions(*sequences: list[int]) -> Interactions:
    rows = np.concatenate([np.array(s, np.int32) for s in sequences])
    offsets = offsets_of([len(s) for s in sequences])
    return Interactions(np.arange(len(sequences), dtype=np.int64), offsets, rows, np.zeros(len(rows), np.int64))


TRAIN = interactions([0, 1], [0, 1, 2], [0, 3])


def test_similarity_is_common_users_over_the_root_of_both_counts_plus_shrinkage() -> None:
    neighbours, similarities = item_neighbours(TRAIN, 5, ItemKnnConfig(shrinkage=1.0))
    assert neighbours[0].tolist() == [1, 2, 3]
    first = similarities[neighbours.offsets[0] : neighbours.offsets[1]]
    assert first.tolist() == pytest.approx([2 / (np.sqrt(6) + 1), 1 / (np.sqrt(3) + 1), 1 / (np.sqrt(3) + 1)])


def test_an_item_is_not_its_own_neighbour_and_one_never_chosen_has_none() -> None:
    neighbours, _ = item_neighbours(TRAIN, 5, ItemKnnConfig())
    assert all(row not in neighbours[row] for row in range(5))
    assert len(neighbours[4]) == 0


def test_only_the_nearest_are_kept() -> None:
    neighbours, _ = item_neighbours(TRAIN, 5, ItemKnnConfig(neighbours=1))
    assert neighbours[0].tolist() == [1]


def test_an_item_chosen_twice_by_a_user_counts_once() -> None:
    once, _ = item_neighbours(TRAIN, 5, ItemKnnConfig())
    twice, _ = item_neighbours(interactions([0, 1, 0], [0, 1, 2], [0, 3]), 5, ItemKnnConfig())
    assert once.values.tolist() == twice.values.tolist()


def test_only_the_newest_choices_of_a_user_are_counted() -> None:
    neighbours, _ = item_neighbours(interactions([0, 1, 2]), 3, ItemKnnConfig(newest=2))
    assert neighbours[0].tolist() == []
    assert neighbours[1].tolist() == [2]

"""ItemKNN: shrunk cosine of who chose both, votes from a candidate's own neighbours, decay by validation; by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recsys.bundle.component import read_component
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.recipes.item_knn import DECAYS, ItemKnnConfig, ItemKnnRecipe, item_neighbours, votes_of
from recsys.retrieval.neighbour_channel import NeighbourChannel
from recsys.testing.channel_contract import users_with_histories
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.progress import QuietProgress
from recsys.train.view import TrainView
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


def test_a_candidate_is_voted_for_by_its_own_neighbours() -> None:
    """Without shrinkage the nearest are: of 0 item 1 (2/√6), of 1 item 0, of 2 item 1 (1/√2), of 3 item 0 (1/√3)."""
    neighbours, similarities = item_neighbours(TRAIN, 5, ItemKnnConfig(neighbours=1, shrinkage=0))
    voted_for, weights = votes_of(neighbours, similarities, 10)
    assert [voted_for[row].tolist() for row in range(5)] == [[1, 3], [0, 2], [], [], []]
    assert weights.tolist() == pytest.approx([2 / np.sqrt(6), 1 / np.sqrt(3), 2 / np.sqrt(6), 1 / np.sqrt(2)])
    channel = NeighbourChannel("item_knn", voted_for, weights, decay=0.5)
    answer = channel.recall(users_with_histories([[2], [0, 1]]), 5)
    assert answer.of(0)[0].tolist() == [], "1 is nearest to 2, but 2 is not nearest to 1"
    assert answer.of(1)[0].tolist() == [2, 3]
    assert answer.of(1)[1].tolist() == pytest.approx([1 / np.sqrt(2), 0.5 / np.sqrt(3)])


def test_an_item_votes_for_no_more_than_it_may_those_it_is_nearest_to_first() -> None:
    neighbours, similarities = item_neighbours(TRAIN, 5, ItemKnnConfig(neighbours=1, shrinkage=0))
    voted_for, weights = votes_of(neighbours, similarities, 1)
    assert [voted_for[row].tolist() for row in range(5)] == [[1], [0], [], [], []]
    assert weights.tolist() == pytest.approx([2 / np.sqrt(6)] * 2)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    """Items 0 and 1 are chosen together, and 2 and 3; nothing to choose by."""
    view = planted_view(tmp_path_factory.mktemp("planted") / "data", Planted(users=30, items=20, mean_length=6))
    return replace(view, train=interactions([0, 1], [0, 1], [2, 3], [2, 3]), validation=None)


def next_after(history: list[int], target: int) -> EvaluationSet:
    whole = interactions([*history, target])
    one = np.zeros(1, np.int32)
    return EvaluationSet(whole, one, one + np.int32(len(history)), np.array([target], np.int32))


def fitted(view: TrainView, out: Path, config: ItemKnnConfig | None = None) -> dict[str, float]:
    metrics = ItemKnnRecipe().fit(config or ItemKnnConfig(), view, {}, out, QuietProgress(out))
    assert read_component(out / "components" / "item_knn").options["decay"] == metrics["decay"]
    return metrics


def test_votes_decay_where_what_comes_next_goes_with_the_newest(pairs: TrainView, tmp_path: Path) -> None:
    """After 0 and 2, items 1 and 3 tie without decay; with it 3 leads."""
    metrics = fitted(replace(pairs, validation=next_after([0, 2], 3)), tmp_path)
    assert metrics["decay"] == DECAYS[1] < 1
    assert metrics["validation_ndcg@10"] == 1
    assert metrics["validation_ndcg@10_undecayed"] == pytest.approx(1 / np.log2(3))


def test_votes_do_not_decay_where_that_is_no_better(pairs: TrainView, tmp_path: Path) -> None:
    assert fitted(replace(pairs, validation=next_after([0, 2], 1)), tmp_path)["decay"] == 1


def test_a_decay_that_is_given_stands_and_a_refit_takes_its_twin_s(pairs: TrainView, tmp_path: Path) -> None:
    given = ItemKnnConfig(decay=0.6)
    assert fitted(replace(pairs, validation=next_after([0, 2], 3)), tmp_path / "given", given)["decay"] == 0.6
    assert fitted(replace(pairs, chosen={"decay": 0.8}), tmp_path / "refit")["decay"] == 0.8
    assert fitted(pairs, tmp_path / "neither")["decay"] == 1

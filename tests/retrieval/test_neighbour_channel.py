"""The neighbour channel: sums of similarities, against a dense product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DataError
from recsys.features.online import OnlineEncoder
from recsys.retrieval import neighbour_channel
from recsys.retrieval.channel import Channel
from recsys.retrieval.neighbour_channel import NeighbourChannel
from recsys.testing.channel_contract import ChannelContract, users_with_histories
from recsys.types import Floats, RaggedRows

SIZE = 40


@pytest.fixture
def similarity() -> NDArray[np.float32]:
    """(SIZE, SIZE) of which about a third is not zero; row 39 has no neighbours."""
    rng = np.random.default_rng(2)
    dense = rng.random((SIZE, SIZE), dtype=np.float32) * (rng.random((SIZE, SIZE)) < 0.3)
    np.fill_diagonal(dense, 0)
    dense[39] = 0
    return dense.astype(np.float32)


def lists_of(similarity: NDArray[np.float32]) -> tuple[RaggedRows, Floats]:
    neighbours = RaggedRows.of([np.flatnonzero(row).astype(np.int32) for row in similarity])
    return neighbours, similarity[similarity != 0]


class TestNeighbourChannel(ChannelContract):
    reaches_everything = False

    @pytest.fixture
    def channel(self, similarity: NDArray[np.float32]) -> Channel:
        return NeighbourChannel("item_knn", *lists_of(similarity))

    @pytest.fixture
    def size(self) -> int:
        return SIZE


@pytest.mark.parametrize(("history", "decay"), [(None, 1.0), (3, 1.0), (None, 0.8), (2, 0.5)])
def test_a_score_is_the_sum_of_the_history_s_similarities(
    similarity: NDArray[np.float32], history: int | None, decay: float
) -> None:
    channel = NeighbourChannel("item_knn", *lists_of(similarity), history=history, decay=decay)
    histories = [[1, 2, 3, 4, 5], [9], [7, 8]]
    answer = channel.recall(users_with_histories(histories), SIZE)
    for b, rows_seen in enumerate(histories):
        voters = rows_seen[-history:] if history else rows_seen
        weights = decay ** np.arange(len(voters))[::-1]
        expected = weights @ similarity[voters]
        expected[rows_seen] = 0
        rows, scores = answer.of(b)
        assert set(rows.tolist()) == set(np.flatnonzero(expected).tolist())
        np.testing.assert_allclose(scores, expected[rows], rtol=1e-5)


def test_no_history_and_no_neighbours_give_nothing(similarity: NDArray[np.float32]) -> None:
    channel = NeighbourChannel("item_knn", *lists_of(similarity))
    assert channel.recall(users_with_histories([[], [39], [1]]), 5).counts.tolist() == [0, 0, 5]
    assert channel.recall(users_with_histories([[]]), 5).counts.tolist() == [0]


def test_equal_votes_come_in_row_order() -> None:
    neighbours = RaggedRows.of([[3, 1, 2], [], [], []])
    channel = NeighbourChannel("item_knn", neighbours, np.array([0.5, 0.5, 0.9], np.float32))
    assert channel.recall(users_with_histories([[0]]), 5).rows.tolist() == [2, 1, 3]


def test_of_equal_votes_the_lowest_rows_are_the_k_best() -> None:
    channel = NeighbourChannel("item_knn", RaggedRows.of([[4, 1, 3, 2], [], [], [], []]), np.ones(4, np.float32))
    assert channel.recall(users_with_histories([[0]]), 2).rows.tolist() == [1, 2]


@pytest.mark.parametrize("cells_a_vote", [0, 1_000], ids=["sorted", "counted"])
def test_sorting_votes_and_counting_them_give_the_same(
    similarity: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, cells_a_vote: int
) -> None:
    monkeypatch.setattr(neighbour_channel, "_CELLS_A_VOTE", cells_a_vote)
    channel = NeighbourChannel("item_knn", *lists_of(similarity), decay=0.5)
    histories = [[1, 2, 3], [], [39], [4, 1] + [39] * 200]
    answer = channel.recall(users_with_histories(histories), SIZE)
    expected = np.array([0.25, 0.5, 1]) @ similarity[[1, 2, 3]]
    expected[[1, 2, 3]] = 0
    rows, scores = answer.of(0)
    np.testing.assert_array_equal(rows, np.argsort(-expected, kind="stable")[: np.count_nonzero(expected)])
    np.testing.assert_allclose(scores, expected[rows], rtol=1e-6)
    assert answer.counts[1:].tolist() == [0, 0, 0], "a vote that decay has brought to 0 is none"


def test_blocks_of_votes_do_not_change_the_answer(
    similarity: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = NeighbourChannel("item_knn", *lists_of(similarity))
    users = users_with_histories([[b, b + 1, 39] for b in range(20)] + [[]])
    at_once = channel.recall(users, 7)
    monkeypatch.setattr(neighbour_channel, "_VOTES_A_BLOCK", 30)
    in_blocks = channel.recall(users, 7)
    assert in_blocks.rows.tolist() == at_once.rows.tolist()
    assert in_blocks.scores.tolist() == at_once.scores.tolist()
    assert in_blocks.offsets.tolist() == at_once.offsets.tolist()


def test_saved_lists_are_opened(
    similarity: NDArray[np.float32], tmp_path: Path, films: Catalogue, film_encoder: OnlineEncoder
) -> None:
    neighbours, similarities = lists_of(similarity)
    NeighbourChannel.save(tmp_path, neighbours, similarities)
    users = users_with_histories([[1, 2, 3]])
    opened = NeighbourChannel.open("item_knn", tmp_path, {"history": 2, "decay": 0.9}, films, film_encoder)
    made = NeighbourChannel("item_knn", neighbours, similarities, history=2, decay=0.9)
    assert opened.recall(users, 9).rows.tolist() == made.recall(users, 9).rows.tolist()


def test_lists_without_any_neighbour_are_opened(tmp_path: Path, films: Catalogue, film_encoder: OnlineEncoder) -> None:
    NeighbourChannel.save(tmp_path, RaggedRows.empty(SIZE), np.empty(0, np.float32))
    channel = NeighbourChannel.open("item_knn", tmp_path, {}, films, film_encoder)
    assert not len(channel.recall(users_with_histories([[1]]), 5).rows)


@pytest.mark.parametrize("name", ["offsets.npy", "neighbours.npy", "similarities.npy"])
def test_a_missing_or_truncated_file_is_named(
    similarity: NDArray[np.float32], tmp_path: Path, films: Catalogue, film_encoder: OnlineEncoder, name: str
) -> None:
    NeighbourChannel.save(tmp_path, *lists_of(similarity))
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BundleError, match=name):
        NeighbourChannel.open("item_knn", tmp_path, {}, films, film_encoder)
    path.unlink()
    with pytest.raises(BundleError, match=name):
        NeighbourChannel.open("item_knn", tmp_path, {}, films, film_encoder)


def test_lists_that_do_not_fit_are_refused(tmp_path: Path, films: Catalogue, film_encoder: OnlineEncoder) -> None:
    outside = RaggedRows.of([[SIZE]] + [[]] * (SIZE - 1))
    NeighbourChannel.save(tmp_path, outside, np.ones(1, np.float32))
    with pytest.raises(BundleError, match=r"neighbours\.npy"):
        NeighbourChannel.open("item_knn", tmp_path, {}, films, film_encoder)
    with pytest.raises(DataError, match="decay"):
        NeighbourChannel("item_knn", RaggedRows.empty(3), np.empty(0, np.float32), decay=0.0)
    with pytest.raises(DataError, match="one similarity a vote"):
        NeighbourChannel("item_knn", RaggedRows.empty(3), np.ones(2, np.float32))
    with pytest.raises(DataError, match="above 0"):
        NeighbourChannel("item_knn", RaggedRows.of([[1], [0]]), np.array([0.5, 0], np.float32))

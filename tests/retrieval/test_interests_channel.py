"""The channel of interests: K' searches merged into the best rows by any of them, and which interests a user has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DeadlineError
from recsys.features.online import OnlineEncoder
from recsys.index.config import IndexConfig
from recsys.index.vector_index import VectorIndex
from recsys.ranking.vector_scorer import VectorScorer
from recsys.retrieval.channel import Channel
from recsys.retrieval.interests_channel import InterestsChannel
from recsys.retrieval.vector_channel import VectorChannel
from recsys.testing.channel_contract import ChannelContract, users_with_histories
from recsys.testing.towers import write_newest_tower
from recsys.types import Bools, Deadline, Floats, RaggedRows, RowMask

SIZE, DIM, INTERESTS, LENGTH = 40, 6, 3, 8
"""As in conftest.py: features keep the newest 8 items, of which log2 is 3."""

rows = st.integers(0, SIZE - 1)


@pytest.fixture
def channel(write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder) -> InterestsChannel:
    """Interest j of a user is the vector of the item seen j items ago."""
    return InterestsChannel.open("mind", write_component(INTERESTS), {"device": "cpu"}, films, film_encoder)


@pytest.fixture(scope="module")
def ties(
    tmp_path_factory: pytest.TempPathFactory, films: Catalogue, film_encoder: OnlineEncoder
) -> tuple[InterestsChannel, Floats]:
    """A channel over vectors of small whole numbers, and these: scores have no rounding, and many are equal."""
    directory = tmp_path_factory.mktemp("ties")
    vectors = np.random.default_rng(3).integers(-1, 2, (SIZE, DIM)).astype(np.float32)
    table = np.zeros((int(film_encoder.item_index.max()) + 1, DIM), np.float32)
    table[film_encoder.item_index] = vectors
    table[1] = 1.0
    VectorIndex.build(vectors, IndexConfig(device="cpu"))[0].save(directory / "index")
    np.save(directory / "history_vectors.npy", table)
    write_newest_tower(directory / "user_tower.onnx", DIM, INTERESTS)
    return InterestsChannel.open("mind", directory, {"device": "cpu"}, films, film_encoder), vectors


class TestInterestsChannel(ChannelContract):
    @pytest.fixture
    def size(self) -> int:
        return SIZE


@pytest.mark.parametrize(
    "index", [{"metric": "cosine"}, {"metric": "l2"}, {"kind": "ivfpq"}, {"kind": "hnsw"}], ids=str
)
class TestInterestsChannelOverAnyIndex(ChannelContract):
    @pytest.fixture
    def channel(
        self,
        write_component: Callable[..., Path],
        films: Catalogue,
        film_encoder: OnlineEncoder,
        index: dict[str, Any],
    ) -> Channel:
        return InterestsChannel.open("mind", write_component(INTERESTS, **index), index, films, film_encoder)

    @pytest.fixture
    def size(self) -> int:
        return SIZE


def brute_force(interests: Floats, vectors: Floats, eligible: Bools, k: int) -> tuple[list[int], list[float]]:
    """The k best eligible rows by (greatest score of an interest descending, row ascending)."""
    scores = (vectors @ interests.T).max(axis=1)
    best = [int(row) for row in np.lexsort((np.arange(len(scores)), -scores)) if eligible[row]][:k]
    return best, scores[best].tolist()


@given(
    histories=st.lists(st.lists(rows, max_size=12), min_size=1, max_size=4),
    hidden=st.lists(st.sets(rows), min_size=4, max_size=4),
    allowed=st.none() | st.sets(rows),
    k=st.integers(1, SIZE + 5),
)
def test_merged_searches_are_brute_force_over_the_greatest_score_of_any_interest(
    ties: tuple[InterestsChannel, Floats],
    histories: list[list[int]],
    hidden: list[set[int]],
    allowed: set[int] | None,
    k: int,
) -> None:
    channel, vectors = ties
    users = users_with_histories(histories, [list(hidden[b]) for b in range(len(histories))])
    may = np.ones(SIZE, np.bool_) if allowed is None else np.isin(np.arange(SIZE), list(allowed))
    answer = channel.recall(users, k, None if allowed is None else RowMask(may))
    interests, counts = channel.interests(users)
    for b in range(len(users)):
        eligible = may & ~np.isin(np.arange(SIZE), list(hidden[b]))
        best, scores = brute_force(interests[b, : counts[b]], vectors, eligible, k)
        assert answer.of(b)[0].tolist() == best
        assert answer.of(b)[1].tolist() == scores


def test_a_film_near_any_interest_is_found_whatever_the_others_say(
    channel: InterestsChannel, film_vectors: Floats
) -> None:
    history = [1, 2, 3, 4, 5, 6, 7, 8]
    answer = channel.recall(users_with_histories([history], [[]]), SIZE)
    rows, scores = answer.of(0)
    by_any = film_vectors @ film_vectors[[8, 7, 6]].T
    np.testing.assert_allclose(scores, by_any.max(axis=1)[rows], rtol=1e-5, atol=1e-6)
    assert rows.tolist() == np.argsort(-by_any.max(axis=1)).tolist()


@pytest.mark.parametrize(("length", "interests"), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3), (20, 3)])
def test_a_user_has_as_many_interests_as_the_logarithm_of_the_history_allows(
    channel: InterestsChannel, length: int, interests: int
) -> None:
    vectors, counts = channel.interests(users_with_histories([list(range(length))]))
    assert vectors.shape == (1, INTERESTS, DIM)
    assert counts.tolist() == [interests]


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_only_what_the_model_looks_at_gives_interests(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder, limit: int
) -> None:
    options = {"history_length": limit}
    channel = InterestsChannel.open("mind", write_component(INTERESTS), options, films, film_encoder)
    assert channel.interests(users_with_histories([list(range(8))]))[1].tolist() == [{1: 1, 2: 1, 4: 2}[limit]]


def test_repeats_of_the_first_interest_change_nothing(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder
) -> None:
    users = users_with_histories([[5], [5, 6, 7], [1, 2, 3, 4, 5]])
    answers = [
        InterestsChannel.open("mind", write_component(count), {}, films, film_encoder).recall(users, SIZE)
        for count in (2, 6)
    ]
    assert answers[0].rows.tolist() == answers[1].rows.tolist()
    assert answers[0].scores.tolist() == answers[1].scores.tolist()


def test_one_interest_is_what_a_vector_channel_finds(
    channel: InterestsChannel, film_channel: VectorChannel, write_component: Callable[..., Path]
) -> None:
    users = users_with_histories([[], [5]])
    alone, single = channel.recall(users, SIZE), film_channel.recall(users, SIZE)
    assert alone.rows.tolist() == single.rows.tolist()
    assert alone.scores.tolist() == single.scores.tolist()


@pytest.mark.parametrize("index", [{}, {"metric": "cosine"}, {"metric": "l2"}, {"kind": "ivfpq"}], ids=str)
def test_a_row_has_the_same_bits_in_retrieval_and_in_ranking(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder, index: dict[str, Any]
) -> None:
    channel = InterestsChannel.open("mind", write_component(INTERESTS, **index), {}, films, film_encoder)
    users = users_with_histories([[1, 2, 3], [4], [], list(range(10, 18))])
    answer = channel.recall(users, SIZE)
    assert VectorScorer(channel).score(users, answer).score.tolist() == answer.scores.tolist()


def test_the_longest_histories_are_cut_and_duplicates_count_as_often_as_they_occur(channel: InterestsChannel) -> None:
    long = np.arange(10_000) % SIZE
    users = users_with_histories([long.tolist(), long[-LENGTH:].tolist(), [9] * 4], [[], [], []])
    vectors, counts = channel.interests(users)
    answer = channel.recall(users, SIZE)
    assert counts.tolist() == [3, 3, 2]
    assert answer.of(0)[0].tolist() == answer.of(1)[0].tolist()
    assert vectors[2, 0].tolist() == vectors[2, 1].tolist()


def test_items_unseen_in_training_count_and_have_the_vector_of_the_unseen(channel: InterestsChannel) -> None:
    vectors, counts = channel.interests(users_with_histories([[SIZE - 1, SIZE - 2] * 2]))
    assert counts.tolist() == [2]
    np.testing.assert_array_equal(vectors[0], np.ones((INTERESTS, DIM), np.float32))


def test_a_user_whose_whole_history_left_the_catalogue_gets_what_one_without_history_gets(
    channel: InterestsChannel,
) -> None:
    gone = users_with_histories([[]], [[3]])  # ids that the catalogue lacks leave no rows
    answer = channel.recall(gone, 5)
    assert answer.of(0)[0].tolist() == [0, 1, 2, 4, 5]
    assert answer.of(0)[1].tolist() == [0.0] * 5


def test_exclusions_hold_for_every_interest_of_their_user_and_for_no_other(channel: InterestsChannel) -> None:
    history = list(range(8))
    hidden = RaggedRows.of([list(range(20)), []])
    users = users_with_histories([history, history], [list(hidden[0]), []])
    answer = channel.recall(users, SIZE)
    assert sorted(answer.of(0)[0].tolist()) == list(range(20, SIZE))
    assert sorted(answer.of(1)[0].tolist()) == list(range(SIZE))


def test_a_deadline_that_has_passed_ends_the_search(channel: InterestsChannel) -> None:
    with pytest.raises(DeadlineError, match="mind"):
        channel.recall(users_with_histories([[1]]), 5, deadline=Deadline.after(-1))


@pytest.mark.parametrize("name", ["user_tower.onnx", "history_vectors.npy", "index/vectors.npy"])
def test_a_missing_file_is_named(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder, name: str
) -> None:
    directory = write_component(INTERESTS)
    (directory / name).unlink()
    with pytest.raises(BundleError, match=name):
        InterestsChannel.open("mind", directory, {}, films, film_encoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interests": 4}, r"makes 3 interests a user, component\.json says 4"),
        ({"history_length": 0}, "history_length = 0"),
        ({"metric": "cosine"}, r"metric is dot, component\.json says cosine"),
    ],
)
def test_options_that_contradict_the_files_are_refused(
    write_component: Callable[..., Path],
    films: Catalogue,
    film_encoder: OnlineEncoder,
    options: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(BundleError, match=message):
        InterestsChannel.open("mind", write_component(INTERESTS), options, films, film_encoder)


def test_towers_of_one_vector_and_of_several_are_not_taken_for_each_other(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder
) -> None:
    with pytest.raises(BundleError, match=r"user_tower\.onnx"):
        InterestsChannel.open("mind", write_component(), {}, films, film_encoder)
    with pytest.raises(BundleError, match=r"user_tower\.onnx"):
        VectorChannel.open("two_tower", write_component(INTERESTS), {}, films, film_encoder)

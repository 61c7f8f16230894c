"""The vector channel: what the tower is fed, what scores mean, and which files it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DeadlineError
from recsys.features.definition import CategoricalFeature, FeatureDefinition
from recsys.features.feature_set import FeatureSet
from recsys.features.online import OnlineEncoder
from recsys.index.config import IndexConfig
from recsys.index.vector_index import VectorIndex
from recsys.ranking.vector_scorer import VectorScorer
from recsys.retrieval import user_tower
from recsys.retrieval.channel import Channel
from recsys.retrieval.vector_channel import VectorChannel
from recsys.testing.channel_contract import ChannelContract, users_with_histories
from recsys.testing.towers import write_mean_tower
from recsys.types import Deadline, Floats

SIZE, DIM = 40, 6


class TestVectorChannel(ChannelContract):
    @pytest.fixture
    def channel(self, film_channel: VectorChannel) -> Channel:
        return film_channel

    @pytest.fixture
    def size(self) -> int:
        return SIZE


@pytest.mark.parametrize(
    "index", [{"metric": "cosine"}, {"metric": "l2"}, {"kind": "ivfpq"}, {"kind": "hnsw"}], ids=str
)
class TestVectorChannelOverAnyIndex(ChannelContract):
    @pytest.fixture
    def channel(
        self,
        write_component: Callable[..., Path],
        films: Catalogue,
        film_encoder: OnlineEncoder,
        index: dict[str, object],
    ) -> Channel:
        return VectorChannel.open("two_tower", write_component(**index), index, films, film_encoder)

    @pytest.fixture
    def size(self) -> int:
        return SIZE


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_a_row_has_the_same_bits_in_retrieval_and_in_ranking(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder, metric: str
) -> None:
    channel = VectorChannel.open("two_tower", write_component(metric=metric), {"metric": metric}, films, film_encoder)
    users = users_with_histories([[1, 2, 3], [4], []])
    answer = channel.recall(users, SIZE)
    assert VectorScorer(channel).score(users, answer).score.tolist() == answer.scores.tolist()


def test_by_distance_the_nearest_films_come_first(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder, film_vectors: Floats
) -> None:
    channel = VectorChannel.open("two_tower", write_component(metric="l2"), {}, films, film_encoder)
    rows, scores = channel.recall(users_with_histories([[3]]), SIZE).of(0)
    apart = np.square(film_vectors - film_vectors[3]).sum(axis=1)
    np.testing.assert_allclose(scores, -apart[rows], rtol=1e-5)
    assert rows.tolist() == [row for row in np.argsort(apart).tolist() if row != 3]


def test_scores_are_dot_products_with_the_mean_of_the_newest_history(
    film_channel: VectorChannel, film_vectors: Floats
) -> None:
    history = [30, 3, 5, 7, 9, 11, 13, 15, 17]
    answer = film_channel.recall(users_with_histories([history]), SIZE)
    rows, scores = answer.of(0)
    user = film_vectors[history[1:]].mean(axis=0)
    np.testing.assert_allclose(scores, film_vectors[rows] @ user, rtol=1e-5, atol=1e-6)
    eligible = np.setdiff1d(np.arange(SIZE), history)
    assert rows.tolist() == eligible[np.argsort(-(film_vectors[eligible] @ user))].tolist()


def test_an_item_unseen_in_training_has_the_vector_of_the_unseen(film_channel: VectorChannel) -> None:
    vectors = film_channel.user_vectors(users_with_histories([[SIZE - 1]]))
    np.testing.assert_array_equal(vectors, np.ones((1, DIM), np.float32))


def test_a_user_without_history_still_gets_an_answer(film_channel: VectorChannel) -> None:
    answer = film_channel.recall(users_with_histories([[]]), 5)
    assert answer.of(0)[0].tolist() == [0, 1, 2, 3, 4]
    assert answer.of(0)[1].tolist() == [0.0] * 5


def test_batches_of_the_tower_do_not_change_the_vectors(
    film_channel: VectorChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = [[1], [2, 3], [], [4, 5, 6, 7, 8, 9, 10, 11, 12], [13]]
    whole = film_channel.user_vectors(users_with_histories(histories))
    monkeypatch.setattr(user_tower, "_PLACES", 4)
    np.testing.assert_allclose(film_channel.user_vectors(users_with_histories(histories)), whole, rtol=1e-6)


def test_a_request_runs_the_tower_once_for_retrieval_and_ranking(
    film_channel: VectorChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    run = film_channel.tower._output_of
    monkeypatch.setattr(film_channel.tower, "_output_of", lambda encoded: (runs.append(1), run(encoded))[1])
    users = users_with_histories([[1], [2, 3]])
    found = film_channel.recall(users, 5)
    scores = VectorScorer(film_channel).score(users, found).score
    assert scores.tolist() == found.scores.tolist()
    assert len(runs) == 1


def test_vectors_of_other_users_are_not_taken_for_the_latest(film_channel: VectorChannel) -> None:
    first, second = users_with_histories([[1]]), users_with_histories([[2]])
    one = film_channel.user_vectors(first).copy()
    two = film_channel.user_vectors(second).copy()
    assert one.tolist() != two.tolist()
    assert film_channel.user_vectors(first).tolist() == one.tolist()


def test_a_deadline_that_has_passed_ends_the_search(film_channel: VectorChannel) -> None:
    with pytest.raises(DeadlineError, match="two_tower"):
        film_channel.recall(users_with_histories([[1]]), 5, deadline=Deadline.after(-1))


@pytest.mark.parametrize("name", ["user_tower.onnx", "history_vectors.npy", "index/vectors.npy"])
def test_a_missing_or_truncated_file_is_named(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder, name: str
) -> None:
    directory = write_component()
    path = directory / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BundleError, match=name):
        VectorChannel.open("two_tower", directory, {}, films, film_encoder)
    path.unlink()
    with pytest.raises(BundleError, match=name):
        VectorChannel.open("two_tower", directory, {}, films, film_encoder)


def test_an_index_over_another_catalogue_is_refused(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder, film_vectors: Floats
) -> None:
    directory = write_component()
    VectorIndex.build(film_vectors[:30], IndexConfig(device="cpu"))[0].save(directory / "index")
    with pytest.raises(BundleError, match="30 vectors, the catalogue 40"):
        VectorChannel.open("two_tower", directory, {}, films, film_encoder)


def test_options_that_contradict_the_index_are_refused(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder
) -> None:
    with pytest.raises(BundleError, match=r"metric is dot, component\.json says cosine"):
        VectorChannel.open("two_tower", write_component(), {"metric": "cosine"}, films, film_encoder)


def test_a_tower_of_another_width_than_the_index_is_refused(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder
) -> None:
    directory = write_component()
    write_mean_tower(directory / "user_tower.onnx", DIM + 1)
    with pytest.raises(BundleError, match="user_tower"):
        VectorChannel.open("two_tower", directory, {}, films, film_encoder)


def test_a_tower_for_features_that_the_bundle_lacks_is_refused(
    write_component: Callable[..., Path], films: Catalogue
) -> None:
    definition = FeatureDefinition(features=(CategoricalFeature(name="country", side="user"),))
    frame = films.frame
    users = frame.rename({"item_id": "user_id"}).with_columns(country=frame["item_id"].cast(str))
    events = users.select("user_id").with_columns(item_id=users["user_id"])
    features = FeatureSet.fit(definition, items=frame, users=users, events=events)
    with pytest.raises(BundleError, match="history"):
        VectorChannel.open("two_tower", write_component(), {}, films, OnlineEncoder(features, films))

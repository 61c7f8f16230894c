"""The static channel: one list for everybody, less what each may not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DataError
from recsys.features.online import OnlineEncoder
from recsys.retrieval.channel import Channel
from recsys.retrieval.static_channel import StaticChannel
from recsys.testing.channel_contract import ChannelContract, users_with_histories
from recsys.types import RowMask

SIZE = 40


class TestStaticChannel(ChannelContract):
    @pytest.fixture
    def channel(self) -> Channel:
        return StaticChannel("popularity", np.random.default_rng(0).permutation(SIZE).astype(np.float32))

    @pytest.fixture
    def size(self) -> int:
        return SIZE


def test_equal_scores_come_in_row_order() -> None:
    channel = StaticChannel("popularity", np.array([1, 5, 1, 5, 1], np.float32))
    answer = channel.recall(users_with_histories([[]]), 5)
    assert answer.rows.tolist() == [1, 3, 0, 2, 4]
    assert answer.scores.tolist() == [5, 5, 1, 1, 1]


def test_the_only_eligible_row_is_found_at_the_end_of_a_long_list() -> None:
    channel = StaticChannel("popularity", -np.arange(10_000, dtype=np.float32))
    allowed = np.zeros(10_000, bool)
    allowed[[9_998, 9_999]] = True
    answer = channel.recall(users_with_histories([[9_998]]), 3, RowMask(allowed))
    assert answer.rows.tolist() == [9_999]


def test_saved_scores_are_opened(tmp_path: Path, films: Catalogue, film_encoder: OnlineEncoder) -> None:
    scores = np.random.default_rng(1).random(SIZE)
    StaticChannel.save(tmp_path, scores.astype(np.float32))
    channel = StaticChannel.open("popularity", tmp_path, {}, films, film_encoder)
    answer = channel.recall(users_with_histories([[]]), 3)
    assert answer.rows.tolist() == np.argsort(-scores)[:3].tolist()


def test_scores_that_do_not_fit_are_refused(tmp_path: Path, films: Catalogue, film_encoder: OnlineEncoder) -> None:
    with pytest.raises(BundleError, match=r"scores\.npy"):
        StaticChannel.open("popularity", tmp_path, {}, films, film_encoder)
    StaticChannel.save(tmp_path, np.zeros(SIZE - 1, np.float32))
    with pytest.raises(BundleError, match="39"):
        StaticChannel.open("popularity", tmp_path, {}, films, film_encoder)
    with pytest.raises(DataError, match="finite"):
        StaticChannel("popularity", np.array([1, np.nan], np.float32))

"""The cache of users' vectors: what it forgets, and that no tower ever answers with what is out of date."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys.data.catalogue import Catalogue
from recsys.features.online import OnlineEncoder
from recsys.retrieval.interests_channel import InterestsChannel
from recsys.retrieval.vector_cache import VectorCache
from recsys.retrieval.vector_channel import VectorChannel
from recsys.testing.channel_contract import users_with_histories
from recsys.types import Floats


@pytest.fixture
def lookups() -> Counter[tuple[str, str]]:
    """How often each channel's vectors came from the cache or the tower."""
    return Counter()


@pytest.fixture
def cache(lookups: Counter[tuple[str, str]]) -> VectorCache:
    return VectorCache(1_000_000, lambda channel, source: lookups.update([(channel, source)]))


def vector(value: float) -> Floats:
    """One of 1,000 numbers: 4,000 bytes, and 320 for its entry."""
    return np.full((1, 1_000), value, np.float32)


def test_the_least_recently_used_are_forgotten_when_the_bytes_are_spent() -> None:
    cache = VectorCache(3 * 4_320)
    for name in (b"a", b"b", b"c"):
        cache.put(name, vector(ord(name)))
    assert cache.get("two_tower", b"a") is not None
    cache.put(b"d", vector(0))
    assert [cache.get("two_tower", name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert len(cache) == 3


def test_what_is_put_again_takes_no_more_memory() -> None:
    cache = VectorCache(2 * 4_320)
    for value in range(5):
        cache.put(b"a", vector(value))
    cache.put(b"b", vector(9))
    assert len(cache) == 2
    found = cache.get("two_tower", b"a")
    assert found is not None
    assert found[0, 0] == 4


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = VectorCache(4_000)
    cache.put(b"a", vector(1))
    assert len(cache) == 0


def test_a_user_who_comes_back_has_the_same_answer_from_the_cache(
    film_channel: VectorChannel, cache: VectorCache, lookups: Counter[tuple[str, str]]
) -> None:
    without = film_channel.recall(users_with_histories([[1, 2, 3]]), 10)
    film_channel.tower.cache = cache
    answers = [film_channel.recall(users_with_histories([[1, 2, 3]]), 10) for _ in range(3)]
    assert lookups == {("two_tower", "tower"): 1, ("two_tower", "cache"): 2}
    for answer in answers:
        assert answer.rows.tolist() == without.rows.tolist()
        assert answer.scores.tolist() == without.scores.tolist()


@pytest.mark.parametrize("later", [[1, 2, 3, 4], [2, 1, 3], [1, 2], [], [3], [1, 2, 3, 3]], ids=str)
def test_any_other_history_has_its_own_vector(
    film_channel: VectorChannel, cache: VectorCache, later: list[int]
) -> None:
    expected = film_channel.user_vectors(users_with_histories([later])).tolist()
    film_channel.tower.cache = cache
    film_channel.user_vectors(users_with_histories([[1, 2, 3]]))
    assert film_channel.user_vectors(users_with_histories([later])).tolist() == expected


def test_items_beyond_what_the_features_keep_do_not_matter(
    film_channel: VectorChannel, cache: VectorCache, lookups: Counter[tuple[str, str]]
) -> None:
    film_channel.tower.cache = cache
    for oldest in (20, 21, 22):
        film_channel.user_vectors(users_with_histories([[oldest, *range(8)]]))
    assert lookups["two_tower", "cache"] == 2


def test_two_towers_share_a_cache_and_never_a_vector(
    write_component: Callable[..., Path], films: Catalogue, film_encoder: OnlineEncoder, cache: VectorCache
) -> None:
    """As two channels of a bundle do, and the bundles before and after a switch."""
    mean = VectorChannel.open("two_tower", write_component(), {}, films, film_encoder)
    newest = InterestsChannel.open("mind", write_component(3), {}, films, film_encoder)
    cosine = VectorChannel.open("two_tower", write_component(metric="cosine"), {}, films, film_encoder)
    users = users_with_histories([[1, 2, 3, 4]])
    expected = [channel.user_vectors(users).tolist() for channel in (mean, newest, cosine)]
    for channel in (mean, newest, cosine):
        channel.tower.cache = cache
    for _ in range(2):
        again = users_with_histories([[1, 2, 3, 4]])
        assert [channel.user_vectors(again).tolist() for channel in (mean, newest, cosine)] == expected
    assert len(cache) == 3


def test_batches_pass_the_cache_by(
    film_channel: VectorChannel, cache: VectorCache, lookups: Counter[tuple[str, str]]
) -> None:
    film_channel.tower.cache = cache
    film_channel.recall(users_with_histories([[1], [2]]), 5)
    assert not lookups
    assert len(cache) == 0

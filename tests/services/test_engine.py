"""What answers say, on the toy bundle and a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.bundle.bundle import Bundle
from recsys.bundle.publish import current
from recsys.cascade.answers import ChannelStatus
from recsys.columns import ITEM_ID, EventType
from recsys.data.dataset import write_dataset
from recsys.data.string_ids import hash_key, key_dictionary
from recsys.errors import DeadlineError, PreconditionError, RequestError, StoreError
from recsys.ranking.scorer import Stage
from recsys.retrieval.filters import AttributeFilter
from recsys.stores.memory import MemoryStore
from recsys.stores.store import Event, Recorded, UserState
from recsys.testing.bundles import write_toy_bundle
from recsys.testing.toy import toy_events, toy_items, toy_users
from recsys.types import Candidates, Deadline
from services.pb import recsys_pb2 as pb
from services.rpc.bundles import load
from services.rpc.calls import RecallAnswer, RecallQuery, RecordQuery, ScoreQuery, UserQuery
from services.rpc.convert import recall_query, recall_response, recommend_response, score_query, unknown_keys
from services.rpc.engine import Engine
from services.rpc.measurements import STORE_ERRORS, Measurements
from services.rpc.store_guard import GuardedStore

NOW = 1_700_000_000_000


class AwayStore(MemoryStore):
    """A store that does not answer while `away`."""

    away = True

    async def read(self, user_id: int) -> UserState:
        if self.away:
            raise StoreError("away")
        return await super().read(user_id)

    async def record(self, events: Sequence[Event]) -> Recorded:
        if self.away:
            raise StoreError("away")
        return await super().record(events)


@pytest.fixture(scope="module")
def bundle(toy_bundles: Path) -> Bundle:
    return load(current(toy_bundles))


@pytest.fixture(scope="module")
def keyed_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy set with string ids: the film with id 10 is "film-10"."""
    folder = tmp_path_factory.mktemp("keyed")
    names = {item: f"film-{item}" for item in toy_items()[ITEM_ID]}
    to_hash = {item: hash_key(name) for item, name in names.items()}
    dataset = write_dataset(
        folder / "data",
        events=toy_events().with_columns(pl.col(ITEM_ID).replace_strict(to_hash, return_dtype=pl.Int64)),
        items=toy_items().with_columns(pl.col(ITEM_ID).replace_strict(to_hash, return_dtype=pl.Int64)),
        users=toy_users(),
        item_keys=key_dictionary(pl.Series(list(names.values())), ITEM_ID),
        name="keyed",
        time="real",
        source="by hand",
    )
    return load(write_toy_bundle(folder / "bundles", dataset, folder / "work"))


def engine_over(bundle: Bundle, store: MemoryStore) -> Engine:
    measurements = Measurements()
    return Engine(bundle, GuardedStore(store, measurements), measurements)


@pytest.fixture
def engine(bundle: Bundle) -> Engine:
    store = MemoryStore()
    asyncio.run(store.load(bundle.users))
    return engine_over(bundle, store)


@pytest.fixture
def counted() -> Measurements:
    """What the engine that caches has counted."""
    return Measurements()


@pytest.fixture
def caching(toy_bundles: Path, counted: Measurements) -> Engine:
    """An engine that keeps users' vectors, over a bundle of its own."""
    bundle = load(current(toy_bundles))
    store = MemoryStore()
    asyncio.run(store.load(bundle.users))
    return Engine(bundle, GuardedStore(store, counted), counted, cache_bytes=1_000_000)


def ids(items: Sequence[int]) -> np.ndarray:
    return np.array(items, np.int64)


def recall(
    engine: Engine,
    user: int | None = None,
    k: int = 8,
    history: Sequence[int] | None = None,
    user_key: str | None = None,
    **asked: Any,
) -> RecallAnswer:
    who = UserQuery(user, None if history is None else ids(history), user_key)
    return asyncio.run(engine.recall(RecallQuery(who, k, **asked), Deadline.after(10)))


def test_seen_items_do_not_come_back(engine: Engine) -> None:
    assert set(recall(engine, user=1).items.ids.tolist()) == {50, 60, 70, 80}


def test_seen_items_come_back_on_request(engine: Engine) -> None:
    assert len(recall(engine, user=1, exclude_seen=False).items.ids) == 8


def test_an_impression_alone_is_not_seen(engine: Engine) -> None:
    assert 80 in recall(engine, user=1).items.ids


def test_excluded_items_never_come_back(engine: Engine) -> None:
    assert 60 not in recall(engine, user=1, exclude=ids([60, 999]), exclude_seen=False).items.ids


def test_one_channel_answers_with_its_own_scores(engine: Engine) -> None:
    answer = recall(engine, user=5, k=3, channels=("popularity",))
    assert answer.items.ids.tolist() == [30, 20, 40]
    assert answer.items.scores.tolist() == [4.0, 3.0, 3.0]
    assert answer.masks.tolist() == [1, 1, 1]


def test_bits_of_a_mask_are_the_channels_of_the_answer(engine: Engine) -> None:
    answer = recall(engine, user=2, channel_lists=True)
    for bit, channel in enumerate(answer.channels):
        assert channel.items is not None
        found = set(answer.items.ids[(answer.masks >> bit & 1) == 1].tolist())
        assert found == set(channel.items.ids.tolist())


def test_a_history_in_the_request_replaces_history_and_seen_of_the_store(engine: Engine) -> None:
    answer = recall(engine, user=1, history=[60], channels=("item_knn",))
    assert answer.items.ids.tolist() == [50, 70]
    assert not {60} & set(recall(engine, user=1, history=[60]).items.ids.tolist())
    assert {10, 20, 30, 40} <= set(recall(engine, user=1, history=[60]).items.ids.tolist())


def test_with_a_history_the_answer_does_not_depend_on_the_store(bundle: Bundle, engine: Engine) -> None:
    away = engine_over(bundle, AwayStore())
    with_store, without = (recall(e, user=1, history=[60, 70]) for e in (engine, away))
    assert with_store.items.ids.tolist() == without.items.ids.tolist()
    assert with_store.items.scores.tolist() == without.items.scores.tolist()
    assert without.about.degraded == ()


def test_all_of_a_long_history_is_excluded_and_unknown_items_are_passed_over(engine: Engine) -> None:
    answer = recall(engine, history=[10, 20, 30] * 3000 + [10**9])
    assert set(answer.items.ids.tolist()) == {40, 50, 60, 70, 80}


def test_a_user_without_history_is_cold_and_that_is_no_fault(engine: Engine) -> None:
    answer = recall(engine, user=12345)
    assert not answer.about.known
    assert answer.about.degraded == ()
    assert len(answer.items.ids) == 8
    empty = {channel.name: channel.status for channel in answer.channels}
    assert empty["item_knn"] is ChannelStatus.EMPTY


def test_filters_and_attributes(engine: Engine) -> None:
    seventies = (AttributeFilter("year", min=1970, max=1979),)
    answer = recall(engine, filters=seventies, attributes=("title", "year"))
    assert answer.attributes is not None
    found = dict(zip(answer.items.ids.tolist(), answer.attributes, strict=True))
    assert found == {10: {"title": "Alien", "year": "1979"}, 50: {"title": "Eraserhead", "year": "1977"}}


@pytest.mark.parametrize(
    ("asked", "field", "hint"),
    [
        ({"k": 0}, "k", "between 1 and 1000"),
        ({"k": 1001}, "k", "between 1 and 1000"),
        ({"channels": ("mind",)}, "channels", "item_knn, popularity, two_tower"),
        ({"filters": (AttributeFilter("colour", any_of=("red",)),)}, "filters.attribute", "year"),
        ({"attributes": ("colour",)}, "attributes", "title"),
        ({"by_key": "history_keys"}, "history_keys", "integer"),
        ({"by_key": "exclude_item_keys"}, "exclude_item_keys", "integer"),
        ({"user_key": "ann"}, "user_key", "use user_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_names_field_value_and_bound(engine: Engine, asked: dict[str, Any], field: str, hint: str) -> None:
    with pytest.raises(RequestError, match=hint) as refusal:
        recall(engine, **asked)
    assert refusal.value.field == field


def test_a_click_changes_the_very_next_answer(engine: Engine) -> None:
    def scores() -> dict[int, float]:
        answer = recall(engine, user=4, channels=("two_tower",), exclude_seen=False)
        return dict(zip(answer.items.ids.tolist(), answer.items.scores.tolist(), strict=True))

    before = scores()
    click = Event(event_id=1, user_id=4, item_id=10, type=EventType.CLICK, timestamp_ms=NOW)
    answer = asyncio.run(engine.record(RecordQuery((click, click), ((7, "wrong"),))))
    assert (answer.accepted, answer.duplicates, answer.rejected) == (1, 1, ((7, "wrong"),))
    assert scores() != before
    assert 10 not in recall(engine, user=4).items.ids


def sources(counted: Measurements) -> tuple[int, int]:
    """How often the tower's vectors came from the cache and from the tower."""
    cache, tower = (counted.counters["recsys_user_vectors", ("two_tower", source)] for source in ("cache", "tower"))
    return cache, tower


def by_vector(engine: Engine, **asked: Any) -> list[float]:
    """Scores of all films by the vector channel alone."""
    return recall(engine, channels=("two_tower",), exclude_seen=False, **asked).items.scores.tolist()


def test_a_user_who_comes_back_is_answered_out_of_the_cache(
    caching: Engine, engine: Engine, counted: Measurements
) -> None:
    answers = [by_vector(caching, user=2) for _ in range(3)]
    assert sources(counted) == (2, 1)
    assert answers == [by_vector(engine, user=2)] * 3


def test_an_event_counts_in_the_next_answer_although_the_user_was_in_the_cache(
    caching: Engine, engine: Engine, counted: Measurements
) -> None:
    before = by_vector(caching, user=5)
    click = Event(1, 5, 60, EventType.CLICK, NOW)
    for one in (caching, engine):
        asyncio.run(one.record(RecordQuery((click,), ())))
    after = by_vector(caching, user=5)
    assert after != before
    assert after == by_vector(engine, user=5) == by_vector(caching, history=[10, 60])
    assert sources(counted) == (1, 2)


def test_a_history_of_the_request_does_not_become_that_of_the_user(caching: Engine, counted: Measurements) -> None:
    own = by_vector(caching, user=5, history=[70, 80])
    stored = by_vector(caching, user=5)
    assert stored != own
    assert stored == by_vector(caching, user=5)
    assert by_vector(caching, user=5, history=[70, 80]) == own
    assert sources(counted) == (2, 2)


def test_another_bundle_finds_nothing_of_the_one_before_in_the_cache(
    caching: Engine, counted: Measurements, toy_bundles: Path
) -> None:
    before = by_vector(caching, user=2)
    caching.switch(load(current(toy_bundles)))
    assert by_vector(caching, user=2) == before
    assert sources(counted) == (0, 2)


def test_an_event_of_an_unknown_item_is_recorded_and_changes_nothing(engine: Engine) -> None:
    before = recall(engine, user=4, channels=("two_tower",))
    click = Event(event_id=2, user_id=4, item_id=10**12, type=EventType.CLICK, timestamp_ms=NOW)
    assert asyncio.run(engine.record(RecordQuery((click,), ()))).accepted == 1
    assert recall(engine, user=4, channels=("two_tower",)).items.scores.tolist() == before.items.scores.tolist()


def test_without_the_store_everybody_gets_popularity_and_the_answer_says_so(bundle: Bundle) -> None:
    store = AwayStore()
    engine = engine_over(bundle, store)
    answer = recall(engine, user=1)
    assert answer.about.degraded == ("feature_store",)
    assert not answer.about.known
    assert len(answer.items.ids) == 8
    with pytest.raises(StoreError, match="again"):
        asyncio.run(engine.record(RecordQuery((Event(1, 1, 10, EventType.CLICK, NOW),), ())))
    assert engine._measurements.total(STORE_ERRORS) == 2
    store.away = False
    assert recall(engine, user=1).about.degraded == ()


def test_a_passed_deadline_ends_the_call_before_retrieval(engine: Engine) -> None:
    query = RecallQuery(UserQuery(1), 3)
    with pytest.raises(DeadlineError):
        asyncio.run(engine.recall(query, Deadline.after(-1)))


def test_a_failing_channel_leaves_the_answer_and_is_named(
    bundle: Bundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Candidates:
        raise RuntimeError("broken")

    monkeypatch.setattr(type(bundle.channels["item_knn"]), "recall", fail)
    answer = recall(engine, user=1)
    assert answer.about.degraded == ("item_knn",)
    assert {50, 60} <= set(answer.items.ids.tolist())
    assert {c.name: c.status for c in answer.channels}["item_knn"] is ChannelStatus.FAILED


def test_score_answers_in_request_order_and_lists_the_unknown(engine: Engine) -> None:
    query = ScoreQuery(UserQuery(None, ids([10])), ids([20, 999, 10, 20, -5]))
    answer = asyncio.run(engine.score(query, Deadline.after(10)))
    assert answer.items.ids.tolist() == [20, 10, 20]
    assert answer.items.scores.tolist() == [0.5, 1.25, 0.5]
    assert answer.unknown.tolist() == [999, -5]
    assert answer.p_click is None
    assert answer.p_conversion is None


def test_score_and_recall_agree(engine: Engine) -> None:
    recalled = recall(engine, user=3, channels=("two_tower",))
    scored = asyncio.run(engine.score(ScoreQuery(UserQuery(3), recalled.items.ids, Stage.PRE_RANK), Deadline.after(10)))
    assert scored.items.scores.tolist() == recalled.items.scores.tolist()


def test_a_stage_that_the_bundle_lacks_is_a_failed_precondition(engine: Engine) -> None:
    with pytest.raises(PreconditionError, match="pre_rank"):
        asyncio.run(engine.score(ScoreQuery(UserQuery(1), ids([10]), Stage.RANK), Deadline.after(10)))


def test_recommend_ends_with_the_scores_of_the_last_stage(engine: Engine) -> None:
    answer = asyncio.run(
        engine.recommend(RecallQuery(UserQuery(None, ids([10])), 2, attributes=("title",)), Deadline.after(10))
    )
    assert answer.items.ids.tolist() == [20, 80]
    assert answer.items.scores.tolist() == [0.5, 0.5]
    assert [stage.name for stage in answer.stages] == ["recall", "merge", "pre_rank", "top_k"]
    assert answer.stages[-1].count_out == 2
    assert answer.attributes == [{"title": "Brazil"}, {"title": "Heat"}]


def test_the_first_stage_takes_the_items_that_are_eligible(engine: Engine) -> None:
    def taken(**asked: Any) -> int:
        query = RecallQuery(UserQuery(None, ids([10, 10, 20, 999])), 2, **asked)
        return asyncio.run(engine.recommend(query, Deadline.after(10))).stages[0].count_in

    assert taken(exclude_seen=False) == 8
    assert taken() == 6
    assert taken(exclude=ids([20, 30])) == 5
    assert taken(filters=(AttributeFilter("year", min=1970, max=1979),)) == 1  # Eraserhead; Alien is excluded


def test_a_user_key_for_integer_users_is_refused_in_score_too(engine: Engine) -> None:
    query = score_query(pb.ScoreRequest(user_key="ann", item_ids=[10]))
    with pytest.raises(RequestError, match="user_key = 'ann'"):
        asyncio.run(engine.score(query, Deadline.after(10)))


def test_keys_name_only_those_who_have_string_ids(engine: Engine, keyed_bundle: Bundle) -> None:
    assert engine.integer_ids == {"user", "item"}
    assert engine_over(keyed_bundle, MemoryStore()).integer_ids == {"user"}


def test_a_catalogue_with_string_ids_is_asked_and_answers_by_keys(keyed_bundle: Bundle) -> None:
    engine = engine_over(keyed_bundle, MemoryStore())
    request = pb.RecallRequest(history_keys=["film-10", "film-20", "elsewhere"], exclude_item_keys=["film-30"], k=8)
    response = recall_response(asyncio.run(engine.recall(recall_query(request), Deadline.after(10))))
    assert set(response.item_keys) == {"film-40", "film-50", "film-60", "film-70", "film-80"}
    assert [hash_key(key) for key in response.item_keys] == list(response.item_ids)

    asked = pb.ScoreRequest(history_keys=["film-10"], item_keys=["film-20", "elsewhere", "film-10"])
    scored = asyncio.run(engine.score(score_query(asked), Deadline.after(10)))
    assert scored.items.keys == ["film-20", "film-10"]
    assert unknown_keys(asked, scored) == ["elsewhere"]

    wanted = pb.RecommendRequest(history_keys=["film-10"], k=3)
    recommended = asyncio.run(engine.recommend(recall_query(wanted), Deadline.after(10)))
    answer = recommend_response(recommended)
    assert all(hash_key(item.item_key) == item.item_id for item in answer.items)

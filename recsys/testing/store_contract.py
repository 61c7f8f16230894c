"""What every feature store must do: subclass `StoreContract`, give it the fixture `store`, and run it."""

from __future__ import annotations

import asyncio
from itertools import count

import numpy as np
import pytest

from recsys.columns import EventType
from recsys.errors import DataError
from recsys.stores.store import MAX_HISTORY, MAX_SEEN, Event, Recorded, Store, StreamClaim, StreamEntry, UserState

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
NOW = 1_700_000_000_000
_event_ids = count(1)


def click(
    user_id: int, item_id: int, ms: int = NOW, *, event_id: int | None = None, kind: EventType = EventType.CLICK
) -> Event:
    """A click (or another kind of event) with an event id of its own."""
    return Event(next(_event_ids) if event_id is None else event_id, user_id, item_id, kind, ms)


def state(history: list[tuple[int, int]], seen: list[int] | None = None, **attributes: object) -> UserState:
    """A state from (item, ms) pairs, oldest first; the seen ids are those of the history unless given."""
    ids, times = np.array(history, np.int64).reshape(-1, 2).T
    return UserState(attributes, ids, times, ids if seen is None else np.array(seen, np.int64))


def history(of: UserState) -> list[tuple[int, int]]:
    """(item, ms) pairs of a state, oldest first."""
    return list(zip(of.history_ids.tolist(), of.history_ms.tolist(), strict=True))


async def entries_of(store: Store) -> list[StreamEntry]:
    """The whole stream."""
    return [entry async for entry in store.stream()]


async def events_of(store: Store) -> list[Event]:
    """The events of the whole stream."""
    return [entry.event for entry in await entries_of(store)]


class StoreContract:
    """The tests; a subclass overrides the fixture `store` with one that gives an empty store."""

    @pytest.fixture
    def store(self) -> Store:
        raise RuntimeError("a contract suite needs a fixture `store` in its subclass")

    async def test_a_user_never_heard_of_has_the_empty_state(self, store: Store) -> None:
        read = await store.read(404)
        assert read.attributes == {}
        assert len(read.history_ids) == len(read.history_ms) == len(read.seen_ids) == 0
        assert read.history_ids.dtype == read.history_ms.dtype == read.seen_ids.dtype == np.int64

    async def test_clicks_and_conversions_are_history_and_seen_but_impressions_are_not(self, store: Store) -> None:
        recorded = await store.record(
            [
                click(1, 10, NOW),
                click(1, 20, NOW + 1, kind=EventType.IMPRESSION),
                click(1, 30, NOW + 2, kind=EventType.CONVERSION),
            ]
        )
        read = await store.read(1)
        assert recorded == Recorded(accepted=3, duplicates=0)
        assert history(read) == [(10, NOW), (30, NOW + 2)]
        assert sorted(read.seen_ids.tolist()) == [10, 30]

    async def test_the_stream_holds_every_event_as_it_came(self, store: Store) -> None:
        events = [
            Event(-5, 1, 10, EventType.IMPRESSION, NOW),
            Event(6, -1, INT64_MIN, EventType.CLICK, -NOW, click_id=0),
            Event(7, 0, 2**53 + 1, EventType.CONVERSION, INT64_MAX, click_id=INT64_MIN, value=0.1),
        ]
        events += [
            Event(8, 5, 6, EventType.CLICK, NOW, user_key="Zoë", item_key="a b"),
            Event(9, 5, 6, EventType.CLICK, NOW, item_key=""),
        ]
        await store.record(events)
        assert await events_of(store) == events

    async def test_nothing_recorded_changes_nothing(self, store: Store) -> None:
        assert await store.record([]) == Recorded(0, 0)
        assert await events_of(store) == []

    async def test_an_event_counts_once_within_a_call_and_across_calls(self, store: Store) -> None:
        once = click(1, 10, event_id=77)
        assert await store.record([once, once, click(1, 11)]) == Recorded(accepted=2, duplicates=1)
        assert await store.record([once]) == Recorded(accepted=0, duplicates=1)
        assert sorted((await store.read(1)).history_ids.tolist()) == [10, 11]
        assert len(await events_of(store)) == 2

    async def test_the_same_event_recorded_at_once_by_many_is_accepted_by_one(self, store: Store) -> None:
        answers = await asyncio.gather(*(store.record([click(1, 10, event_id=5)]) for _ in range(20)))
        assert sum(answer.accepted for answer in answers) == 1
        assert history(await store.read(1)) == [(10, NOW)]

    async def test_a_late_event_takes_its_place_by_time_and_equal_times_keep_their_order_of_arrival(
        self, store: Store
    ) -> None:
        await store.record([click(1, 30, 300), click(1, 10, 100), click(1, 20, 200)])
        await store.record([click(1, 21, 200), click(1, 5, -100), click(1, 31, 300)])
        expected = [(5, -100), (10, 100), (20, 200), (21, 200), (30, 300), (31, 300)]
        assert history(await store.read(1)) == expected

    async def test_ids_and_times_are_exact_over_all_of_int64(self, store: Store) -> None:
        ids = [INT64_MIN, -(2**53) - 1, -256, -1, 0, 1, 255, 256, 2**53 + 1, INT64_MAX]
        times = [INT64_MIN, INT64_MIN + 1, -(2**32) - 1, -(2**32), -1, 0, 2**31, 2**32, 2**53 + 1, INT64_MAX]
        late_first = list(zip(ids, times, strict=True))[::-1]
        for user_id in (INT64_MIN, 0, INT64_MAX):
            await store.record(
                [click(user_id, item, ms, event_id=user_id // 2 + i) for i, (item, ms) in enumerate(late_first)]
            )
            read = await store.read(user_id)
            assert history(read) == late_first[::-1]
            assert sorted(read.seen_ids.tolist()) == ids

    async def test_the_history_is_bounded_by_the_newest_in_time(self, store: Store) -> None:
        times = np.random.default_rng(0).permutation(MAX_HISTORY + 500).tolist()
        for start in range(0, len(times), 250):
            await store.record([click(1, ms + 10**6, ms) for ms in times[start : start + 250]])
        read = await store.read(1)
        assert read.history_ms.tolist() == list(range(500, MAX_HISTORY + 500))
        assert read.history_ids.tolist() == [ms + 10**6 for ms in range(500, MAX_HISTORY + 500)]

    async def test_seen_ids_are_bounded_and_a_repetition_does_not_eat_the_bound(self, store: Store) -> None:
        await store.load([(1, state([], seen=list(range(MAX_SEEN - 1))))])
        await store.record([click(1, 10**6, NOW + i) for i in range(50)])
        seen = (await store.read(1)).seen_ids
        assert len(seen) == MAX_SEEN
        assert set(seen.tolist()) == {*range(MAX_SEEN - 1), 10**6}

    async def test_of_the_seen_ids_those_seen_longest_ago_go_first(self, store: Store) -> None:
        await store.load([(1, state([], seen=list(range(MAX_SEEN))))])
        await store.record([click(1, 0), click(1, 10**6), click(1, 10**6 + 1)])
        seen = (await store.read(1)).seen_ids
        assert len(seen) == MAX_SEEN
        assert set(seen.tolist()) == {0, *range(3, MAX_SEEN), 10**6, 10**6 + 1}

    async def test_far_more_events_than_the_bound_leave_exactly_the_bound(self, store: Store) -> None:
        total = MAX_SEEN + MAX_SEEN // 4
        for start in range(0, total, 500):
            await store.record([click(1, item, NOW + item) for item in range(start, start + 500)])
        read = await store.read(1)
        assert sorted(read.seen_ids.tolist()) == list(range(total - MAX_SEEN, total))
        assert read.history_ids.tolist() == list(range(total - MAX_HISTORY, total))

    async def test_loaded_states_are_read_back(self, store: Store) -> None:
        given = state(
            [(1, 100), (2, 200)], seen=[1, 2, 3], city="Zürich", age=33, score=0.25, tags=["a", "b"], new=True
        )
        assert await store.load([(1, given), (2, state([], kind="cold"))]) == 2
        read = await store.read(1)
        assert read.attributes == given.attributes
        assert history(read) == history(given)
        assert read.seen_ids.tolist() == [1, 2, 3]
        assert (await store.read(2)).attributes == {"kind": "cold"}

    async def test_loading_orders_and_bounds_what_it_is_given(self, store: Store) -> None:
        times = list(range(MAX_HISTORY + 5))[::-1]
        seen = [7, *range(MAX_SEEN), 7]
        await store.load([(1, state([(ms, ms) for ms in times], seen=seen))])
        read = await store.read(1)
        assert read.history_ms.tolist() == list(range(5, MAX_HISTORY + 5))
        assert sorted(read.seen_ids.tolist()) == list(range(MAX_SEEN))

    async def test_missing_attributes_are_left_out(self, store: Store) -> None:
        await store.load([(1, state([], age=None, score=float("nan"), city="Rome"))])
        assert (await store.read(1)).attributes == {"city": "Rome"}

    async def test_loading_again_writes_nothing(self, store: Store) -> None:
        users = [(user, state([(1, 100)], name=f"user {user}")) for user in range(5)]
        users += [(10, state([], seen=[1, 2])), (11, state([], city="Bern")), (12, state([]))]
        assert await store.load(users) == 7, "a state without anything is not written at all"
        assert await store.load(users) == 0

    async def test_loading_keeps_what_is_newer(self, store: Store) -> None:
        await store.load([(1, state([(1, 100)], city="Bern"))])
        await store.record([click(1, 2, 200)])
        assert await store.load([(1, state([(1, 100), (9, 150)], city="Rome"))]) == 0
        read = await store.read(1)
        assert history(read) == [(1, 100), (2, 200)]
        assert read.attributes == {"city": "Bern"}

    async def test_loading_fills_in_a_missing_profile_where_the_store_is_newer(self, store: Store) -> None:
        await store.record([click(1, 2, 200)])
        assert await store.load([(1, state([(1, 100)], city="Rome"))]) == 1
        read = await store.read(1)
        assert history(read) == [(2, 200)]
        assert read.attributes == {"city": "Rome"}

    async def test_loading_what_is_as_new_keeps_late_events_and_takes_the_profile(self, store: Store) -> None:
        await store.load([(1, state([(1, 100)], city="Bern"))])
        await store.record([click(1, 2, 50)])
        assert await store.load([(1, state([(1, 100)], city="Rome"))]) == 1
        read = await store.read(1)
        assert history(read) == [(2, 50), (1, 100)]
        assert sorted(read.seen_ids.tolist()) == [1, 2]
        assert read.attributes == {"city": "Rome"}

    async def test_loading_what_is_newer_replaces_history_and_seen(self, store: Store) -> None:
        await store.load([(1, state([(1, -100)], city="Bern"))])
        assert await store.load([(1, state([(2, -50), (3, INT64_MAX)]))]) == 1
        read = await store.read(1)
        assert history(read) == [(2, -50), (3, INT64_MAX)]
        assert read.seen_ids.tolist() == [2, 3]
        assert read.attributes == {"city": "Bern"}

    async def test_overwriting_replaces_even_what_is_newer(self, store: Store) -> None:
        await store.load([(1, state([(1, 100)], city="Bern"))])
        await store.record([click(1, 2, 200)])
        assert await store.load([(1, state([(3, 50)]))], overwrite=True) == 1
        read = await store.read(1)
        assert history(read) == [(3, 50)]
        assert read.seen_ids.tolist() == [3]
        assert read.attributes == {}

    async def test_an_attribute_that_no_store_can_hold_is_refused_by_name(self, store: Store) -> None:
        with pytest.raises(DataError, match="blob"):
            await store.load([(1, state([], blob=b"\x00"))])

    async def test_the_stream_is_trimmed_through_an_event_and_numbers_go_on(self, store: Store) -> None:
        events = [click(1, item) for item in range(2_500)]
        for start in range(0, len(events), 500):
            await store.record(events[start : start + 500])
        entries = await entries_of(store)
        assert [entry.event for entry in entries] == events
        assert [entry.number for entry in entries] == list(range(1, 2_501))

        await store.trim(entries[1_233].position, entries[1_233].number)
        assert await entries_of(store) == entries[1_234:]
        await store.trim(entries[-1].position, entries[-1].number)
        assert await entries_of(store) == []

        await store.record([click(1, 3_000)])
        (later,) = await entries_of(store)
        assert later.number == 2_501

    async def test_a_position_that_is_none_is_refused(self, store: Store) -> None:
        with pytest.raises(DataError, match="yesterday"):
            await store.trim("yesterday", 1)

    async def test_one_at_a_time_has_the_stream_and_it_keeps_its_name_and_how_far_it_was_drained(
        self, store: Store
    ) -> None:
        first = await store.claim_stream("first", 60)
        assert (first.holder, first.drained) == ("first", 0)
        assert await store.claim_stream("second", 60) == first
        await store.record([click(1, 10)])
        (entry,) = await entries_of(store)
        await store.trim(entry.position, entry.number)
        assert await store.claim_stream("first", 0) == StreamClaim("first", first.stream, 1)
        assert await store.claim_stream("second", 60) == StreamClaim("second", first.stream, 1)

    async def test_many_reads_at_once_get_each_their_own(self, store: Store) -> None:
        await store.load((user, state([(user, user)])) for user in range(1_000))
        reads = await asyncio.gather(*(store.read(user % 1_500) for user in range(3_000)))
        for user, read in enumerate(reads):
            assert history(read) == ([(user % 1_500, user % 1_500)] if user % 1_500 < 1_000 else [])

    async def test_it_answers_a_ping(self, store: Store) -> None:
        await store.ping()

"""What makes an event one event, whatever ids it has, in whichever order and however often it comes."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from recsys.columns import CLICK_ID, EVENT_ID, ITEM_ID, VALUE
from recsys.data.event_file import EVENT_SCHEMA
from recsys.data.event_ids import (
    CONFLICT,
    CONTENT,
    Settled,
    content_event_id,
    renamed_event_id,
    settle,
    with_content_ids,
)

ROWS = 4
"""Rows of the source of the dataset in these tests, whose numbers are its first ids."""


def events(*rows: tuple[int, int, int, int | None]) -> pl.DataFrame:
    """Clicks of user 1 from (event_id, item, ms, click_id)."""
    return pl.DataFrame(
        [(1, item, "click", ms, event_id, click, None) for event_id, item, ms, click in rows],
        schema=EVENT_SCHEMA,
        orient="row",
    )


def settled(new: pl.DataFrame, held: pl.DataFrame, row_ids: int = ROWS, *, own_ids: bool = True) -> Settled:
    """As an append does it, the dataset in batches of three."""
    return settle(new, (held[at : at + 3] for at in range(0, held.height, 3)), row_ids, own_ids=own_ids)


HELD = events((0, 10, 100, None), (1, 20, 200, None), (2, 30, 300, None), (3, 40, 400, None))


def test_an_id_that_is_the_number_of_another_row_is_renamed_and_so_is_what_names_it() -> None:
    found = settled(events((2, 70, 900, None), (5, 80, 950, 2)), HELD)
    assert found.added[EVENT_ID].to_list() == [renamed_event_id(2), 5]
    assert found.added[CLICK_ID].to_list() == [None, renamed_event_id(2)]


def test_a_conversion_may_come_before_or_without_the_click_that_it_names() -> None:
    found = settled(events((5, 80, 950, 2)), HELD)
    later = settled(events((2, 70, 900, None)), pl.concat([HELD, found.added]))
    assert found.added[CLICK_ID].to_list() == later.added[EVENT_ID].to_list()


def test_an_event_that_is_its_row_is_there_already_and_may_be_named_by_its_number() -> None:
    found = settled(events((2, 30, 300, None), (5, 80, 950, 2)), HELD)
    assert found.duplicates == 1
    assert found.added[CLICK_ID].to_list() == [2]


def test_where_ids_are_the_sources_own_another_event_with_one_of_them_is_a_conflict() -> None:
    found = settled(events((2, 70, 900, None), (2, 30, 300, None)), HELD, row_ids=0)
    assert (found.added.height, found.duplicates) == (0, 1)
    assert found.conflicts[CONFLICT].to_list() == ["event_id 2 is that of another event in the dataset"]


def test_of_two_events_with_one_id_the_first_counts() -> None:
    found = settled(events((9, 70, 900, None), (9, 70, 900, None), (9, 71, 900, None)), HELD)
    assert found.added[ITEM_ID].to_list() == [70]
    assert found.duplicates == 1
    assert found.conflicts[CONFLICT].to_list() == ["event_id 9 is that of another event in an earlier row"]


def test_a_click_id_or_a_value_that_comes_late_makes_no_other_event() -> None:
    told = events((9, 70, 900, None))
    again = told.with_columns(pl.lit(3, pl.Int64).alias(CLICK_ID), pl.lit(1.5, pl.Float32).alias(VALUE))
    assert settled(again, pl.concat([HELD, told])).duplicates == 1


def test_without_ids_the_same_words_are_the_same_event() -> None:
    new = with_content_ids(events((0, 30, 300, None), (0, 70, 900, None), (0, 70, 900, None)))
    found = settled(new, HELD, own_ids=False)
    assert found.added[EVENT_ID].to_list() == [content_event_id(1, 70, "click", 900)]
    assert found.duplicates == 2
    assert settled(new, pl.concat([HELD, found.added]), own_ids=False).duplicates == 3


def test_renamed_ids_are_above_all_numbers_of_rows() -> None:
    assert all(2**62 <= renamed_event_id(i) < 2**63 for i in range(1_000))


contents = st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["impression", "click"]), st.integers(0, 3))
ids = st.one_of(st.integers(0, ROWS + 3), st.integers(-3, -1), st.sampled_from([2**62, 2**63 - 1]))
rows_held = st.lists(contents, min_size=ROWS, max_size=ROWS)


def frame(rows: list[tuple[int, tuple[int, int, str, int], int | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(*content, event_id, click, None) for event_id, content, click in rows],
        schema={**{name: EVENT_SCHEMA[name] for name in (*CONTENT, EVENT_ID, CLICK_ID, VALUE)}},
        orient="row",
    ).select(*EVENT_SCHEMA)


def appended(held: pl.DataFrame, batches: list[pl.DataFrame], row_ids: int) -> pl.DataFrame:
    for batch in batches:
        held = pl.concat([held, settled(batch, held, row_ids).added])
    return held.sort(EVENT_ID)


@given(
    held=rows_held,
    named=st.dictionaries(ids, contents, max_size=8),
    clicks=st.lists(st.none() | ids, min_size=8, max_size=8),
    row_ids=st.sampled_from([0, ROWS]),
    size=st.integers(1, 8),
    data=st.data(),
)
def test_every_event_is_there_once_whatever_the_batches_and_however_often_they_come(
    held: list, named: dict, clicks: list, row_ids: int, size: int, data: st.DataObject
) -> None:
    base = frame([(i, content, None) for i, content in enumerate(held)])
    # Where ids are the source's own, an id that both have is the same event, or a conflict of its own test.
    named = {i: held[i] if not row_ids and 0 <= i < ROWS else content for i, content in named.items()}
    new = [(i, content, click) for (i, content), click in zip(named.items(), clicks, strict=False)]
    at_once = appended(base, [frame(new)], row_ids)

    expected = ROWS + sum(not (0 <= i < ROWS and held[i] == content) for i, content in named.items())
    assert at_once.height == expected
    assert at_once[EVENT_ID].is_unique().all()
    # Nothing else has changed: what was held stands as it was, and what is new says what was told.
    assert at_once.join(base, on=[EVENT_ID, *CONTENT], how="semi").height == ROWS
    told = [content for i, content in named.items() if not (0 <= i < ROWS and held[i] == content)]
    assert sorted(at_once.join(base, on=EVENT_ID, how="anti").select(CONTENT).rows()) == sorted(told)

    again = appended(at_once, [frame(new), frame(new[::-1])], row_ids)
    assert again.equals(at_once)

    shuffled = data.draw(st.permutations(new))
    by_parts = appended(base, [frame(shuffled[at : at + size]) for at in range(0, len(shuffled), size)], row_ids)
    assert by_parts.select(EVENT_ID, *CONTENT).equals(at_once.select(EVENT_ID, *CONTENT))


@given(held=rows_held, event_id=ids, content=contents, conversion=contents, together=st.booleans())
def test_a_conversion_names_its_click_after_the_append_as_before(
    held: list, event_id: int, content: tuple, conversion: tuple, together: bool
) -> None:
    base = frame([(i, content, None) for i, content in enumerate(held)])
    click, converted = (event_id, content, None), (ROWS + 10, conversion, event_id)
    batches = [frame([click, converted])] if together else [frame([converted]), frame([click])]
    whole = appended(base, batches, ROWS)
    named = whole.filter(pl.col(EVENT_ID) == ROWS + 10)[CLICK_ID].item()
    found = whole.filter(pl.col(EVENT_ID) == named).select(CONTENT).rows()
    is_its_row = 0 <= event_id < ROWS and held[event_id] == content
    if together or not is_its_row:  # a part that does not hold the click cannot say that it is a row
        assert found == [content]

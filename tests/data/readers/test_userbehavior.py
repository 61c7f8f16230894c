from __future__ import annotations

import gzip

import pytest

from recsys.columns import EVENT, EVENT_ID
from recsys.errors import DataError

START = 1_511_539_200
"""2017-11-25 00:00 in UTC+8, where the published log begins."""


def lines(*rows: tuple[object, ...]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


GOOD = lines(
    (1, 10, 100, "pv", START + 5),
    (1, 11, 100, "buy", START + 9),
    (2, 10, 100, "cart", START),
    (2, 12, 200, "fav", START + 9 * 86_400 - 1),
)


def kinds(stored) -> list[str]:
    return stored.dataset.events().sort(EVENT_ID).collect()[EVENT].to_list()


def test_behaviours_become_clicks_and_conversions_and_categories_attributes(write, import_as) -> None:
    stored = import_as("userbehavior", write("log.csv", GOOD))
    assert kinds(stored) == ["click", "conversion", "click", "click"]
    assert [(user, item, ms // 1000 - START) for user, item, ms, _ in stored.events] == [
        (2, 10, 0),
        (1, 10, 5),
        (1, 11, 9),
        (2, 12, 9 * 86_400 - 1),
    ]
    assert stored.dataset.items().rows() == [(10, "100"), (11, "100"), (12, "200")]
    assert stored.dataset.info.time == "real"


def test_behaviours_may_be_given_another_meaning(write, import_as) -> None:
    stored = import_as("userbehavior", write("log.csv", GOOD), event_names={"pv": "impression", "cart": "conversion"})
    assert kinds(stored) == ["impression", "conversion", "conversion", "click"]


def test_an_item_has_its_most_frequent_category_and_the_smaller_of_two(write, import_as) -> None:
    rows = [(1, 10, category, "pv", START) for category in (7, 90, 90)]
    rows += [(1, 11, category, "pv", START) for category in (90, 100, 9)]
    assert import_as("userbehavior", write("log.csv", lines(*rows))).dataset.items().rows() == [(10, "90"), (11, "9")]


def test_the_published_logs_impossible_times_are_bad_rows(write, import_as) -> None:
    wrong = [(1, 10, 100, "pv", second) for second in (-2_134_949_234, 0, START - 1, START + 9 * 86_400, 2_122_867_355)]
    rows = [(n, 10, 100, "pv", START + n) for n in range(500)]
    stored = import_as("userbehavior", write("log.csv", lines(*rows, *wrong)))
    assert len(stored.events) == 500
    assert [line for _, line, _, _ in stored.rejected] == [501, 502, 503, 504, 505]
    assert "its time -2134949234 is outside the days of the log" in stored.rejected[0][2]


def test_a_log_of_other_days_is_taken_as_it_is(write, import_as) -> None:
    rows = [(n, 10, 100, "pv", 1_600_000_000 + n) for n in range(20)]
    stored = import_as("userbehavior", write("log.csv", lines(*rows)))
    assert [ms for _, _, ms, _ in stored.events] == [(1_600_000_000 + n) * 1000 for n in range(20)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,10,100,pv", "it has 4 fields where 5 are due"),
        ("1,10,100,pv,1511539200,0", "it has 6 fields"),
        ("x,10,100,pv,1511539200", "user_id 'x' is not an integer"),
        (",10,100,pv,1511539200", "user_id is empty"),
        ("1,10,100,look,1511539200", "event 'look' is none of"),
        ("1,10,100,pv,", "timestamp_ms is empty"),
        ("1,10,100,pv,noon", "timestamp_ms 'noon' is not a time"),
    ],
)
def test_a_bad_row_is_left_out_with_its_line_and_reason(write, import_as, row: str, reason: str) -> None:
    stored = import_as("userbehavior", write("log.csv", GOOD * 50 + row + "\n"))
    assert len(stored.events) == 200
    ((_, line, why, text),) = stored.rejected
    assert (line, text) == (201, row)
    assert reason in why


def test_a_compressed_log_is_the_same_and_an_empty_or_truncated_one_is_refused(write, import_as) -> None:
    plain = import_as("userbehavior", write("log.csv", GOOD)).dataset.info
    packed = import_as("userbehavior", write("log.csv.gz", gzip.compress(GOOD.encode()))).dataset.info
    assert packed.content_hash == plain.content_hash
    with pytest.raises(DataError, match="is empty"):
        import_as("userbehavior", write("empty.csv", ""))
    with pytest.raises(DataError, match=r"cut\.gz"):
        import_as("userbehavior", write("cut.gz", gzip.compress(GOOD.encode() * 1000)[:-40]))

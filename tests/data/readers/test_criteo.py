from __future__ import annotations

import gzip

import polars as pl
import pytest

from recsys.columns import CLICK_ID, EVENT, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.readers.criteo import CATEGORIES, INTEGERS
from recsys.data.string_ids import hash_key
from recsys.errors import DataError

INTS = ["3", "", "0", "-1", "12", "", "7", "99"]
CATS = ["1a2b3c4d", "00000007", "", "1e5", "ffffffff", "", "", "deadbeef", "0"]


def line(clicked: object, converted: object = "", integers: list[str] = INTS, categories: list[str] = CATS) -> str:
    return "\t".join([str(clicked), str(converted), *integers, *categories]) + "\n"


def test_a_line_is_a_click_and_its_conversion_names_it(write, import_as) -> None:
    stored = import_as("criteo-conversion", write("data.txt", line(0) + line(0, 90) + line(60)))
    events = stored.dataset.events().select(EVENT_ID, EVENT, TIMESTAMP_MS, USER_ID, CLICK_ID).collect()
    assert events.rows() == [
        (0, "click", 0, 0, None),
        (2, "click", 0, 1, None),
        (4, "click", 60_000, 2, None),
        (3, "conversion", 90_000, 1, 2),
    ]
    assert stored.dataset.info.row_ids == 5
    assert (stored.dataset.info.time, stored.time) == ("real", "seconds since the start of the log")


def test_an_event_joined_with_its_user_and_item_has_the_17_features_of_its_click(write, import_as) -> None:
    other = ["1", "2", "3", "4", "5", "6", "7", "8"]
    dataset = import_as(
        "criteo-conversion", write("data.txt", line(1, 5) + line(2, "", other) + line(3, "", INTS, ["x"] * 9))
    ).dataset
    joined = dataset.events().collect().join(dataset.users(), on=USER_ID).join(dataset.items(), on=ITEM_ID)
    rows = joined.sort(EVENT_ID).select(*INTEGERS, *CATEGORIES).rows()
    first = (3, None, 0, -1, 12, None, 7, 99, *(text or None for text in CATS))
    assert rows == [first, first, (*map(int, other), *first[8:]), (*first[:8], *["x"] * 9)]
    assert dataset.items()[ITEM_ID].to_list() == sorted([hash_key("|".join(CATS)), hash_key("|".join(["x"] * 9))])
    assert dataset.items().schema["category_2"] == pl.String


def test_a_click_without_any_category_still_has_an_item(write, import_as) -> None:
    dataset = import_as("criteo-conversion", write("data.txt", line(0, "", [""] * 8, [""] * 9) + line(1))).dataset
    assert dataset.items().height == 2
    assert dataset.info.counts.by_type == {"impression": 0, "click": 2, "conversion": 0}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("5\t9\n", "it has 2 fields where 19 are due"),
        (line(""), "it has no click time"),
        (line("noon"), "clicked 'noon' is not an integer"),
        (line(9, 5), "its conversion at 5 is before its click at 9"),
        (line(9, "x"), "converted 'x' is not an integer"),
        (line(9, "", ["a", *INTS[1:]]), "integer_1 'a' is not an integer"),
    ],
)
def test_a_bad_line_is_left_out_whole(write, import_as, row: str, reason: str) -> None:
    stored = import_as("criteo-conversion", write("data.txt", line(0) * 150 + row + line(7, 8)))
    assert stored.dataset.info.counts.by_type == {"impression": 0, "click": 151, "conversion": 1}
    assert stored.dataset.users().height == 151
    ((_, number, why, text),) = stored.rejected
    assert (number, text) == (151, row.rstrip("\n"))
    assert reason in why


def test_a_compressed_log_is_the_same_and_an_empty_one_is_refused(write, import_as) -> None:
    text = line(0) + line(4, 9)
    plain = import_as("criteo-conversion", write("data.txt", text)).dataset.info
    packed = import_as("criteo-conversion", write("data.txt.gz", gzip.compress(text.encode()))).dataset.info
    assert packed.content_hash == plain.content_hash
    with pytest.raises(DataError, match="is empty"):
        import_as("criteo-conversion", write("empty.txt", ""))

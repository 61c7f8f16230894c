from __future__ import annotations

import gzip
import json
from typing import Any

import polars as pl
import pytest

from recsys.columns import EVENT, EVENT_ID, ITEM_ID, VALUE
from recsys.errors import DataError

NESTED = {"user_id": "user.id", "item_id": "item.sku", "timestamp_ms": "at"}


def lines(*objects: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in objects)


def event(user: Any, item: Any, at: Any = 1_600_000_000, **more: Any) -> dict[str, Any]:
    return {"user": {"id": user, "country": "de"}, "item": {"sku": item}, "at": at, **more}


def test_paths_reach_into_nested_objects(write, import_as) -> None:
    rows = [event(7, "a", type="view"), event(8, "b", 1_600_000_001, type="buy", paid=2.5)]
    stored = import_as(
        "jsonl",
        write("log.jsonl", lines(*rows)),
        columns=NESTED | {"event": "type", "value": "paid"},
        event_names={"view": "impression", "buy": "conversion"},
    )
    events = stored.dataset.events().sort(EVENT_ID).collect()
    assert events[EVENT].to_list() == ["impression", "conversion"]
    assert events[VALUE].to_list() == [None, 2.5]
    assert stored.dataset.info.item_ids == "string"
    assert [user for user, *_ in stored.events] == [7, 8]


def test_without_a_map_common_names_are_known(write, import_as) -> None:
    text = lines({"userId": 1, "itemId": 2, "timestamp": 1_600_000_000}, {"itemId": 3, "timestamp": 5, "userId": 1})
    assert import_as("jsonl", write("log.jsonl", text)).events == [(1, 3, 5_000, 1), (1, 2, 1_600_000_000_000, 0)]


def test_the_same_log_as_jsonl_and_as_csv_is_the_same_dataset(write, import_as) -> None:
    rows = [(f"u{n % 5}", n % 7, 1_600_000_000 + 7 * n % 11) for n in range(100)]
    as_json = write("log.jsonl", lines(*({"user": {"id": u}, "item": i, "ts": t} for u, i, t in rows)))
    as_csv = write("log.csv", "user,item,ts\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    one = import_as("jsonl", as_json, columns={"user_id": "user.id", "item_id": "item", "timestamp_ms": "ts"})
    first = one.dataset.info.content_hash
    other = import_as("table", as_csv, columns={"user_id": "user", "item_id": "item", "timestamp_ms": "ts"})
    assert other.dataset.info.content_hash == first


def test_a_key_with_a_dot_in_it_is_found_too(write, import_as) -> None:
    text = lines({"user.id": 4, "item": 2, "ts": 1_600_000_000})
    columns = {"user_id": "user.id", "item_id": "item", "timestamp_ms": "ts"}
    assert import_as("jsonl", write("log.jsonl", text), columns=columns).events[0][0] == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"user": {"id": 1}, "item": {"sku": 2}, "at": 16000', "it is not JSON: "),
        ("no json", "it is not JSON: Expecting value at character 1"),
        ("[1, 2]", "it is not a JSON object"),
        ('{"user": {"id": 1}} {"user": {"id": 1}}', "it is not JSON: Extra data"),
        ('{"user": {"id": 1}},{"user": {"id": 1}}', "it is not JSON: Extra data"),
        ('{"user": 5, "item": {"sku": 2}, "at": 1600000000}', "its 'user' is not an object"),
        ('{"user": {"id": [1]}, "item": {"sku": 2}, "at": 1600000000}', "its 'user.id' is not a single value"),
        ('{"user": {"id": NaN}, "item": {"sku": 2}, "at": 1600000000}', "it is not JSON: NaN is no number"),
        ('{"item": {"sku": 2}, "at": 1600000000}', "user_id is empty"),
        ('{"user": null, "item": {"sku": 2}, "at": 1600000000}', "user_id is empty"),
        ('{"user": {"id": 1}, "item": {"sku": 2}, "at": "noon"}', "timestamp_ms 'noon' is not a time"),
    ],
)
def test_a_bad_line_is_left_out_with_its_number_and_reason(write, import_as, row: str, reason: str) -> None:
    good = [event(n, n) for n in range(150)]
    stored = import_as("jsonl", write("log.jsonl", lines(*good[:70]) + row + "\n" + lines(*good[70:])), columns=NESTED)
    assert sorted(user for user, *_ in stored.events) == list(range(150))
    ((_, number, why, text),) = stored.rejected
    assert (number, text) == (71, row)
    assert reason in why


def test_attributes_are_fields_paths_and_lists(write, import_as) -> None:
    items = [
        {"id": "a", "title": "Mug", "brand": {"name": "Kiln", "founded": 1950}, "tags": ["red", "big"], "fair": True},
        {"id": "b", "title": "007", "brand": {"name": None, "founded": 1960}, "tags": "blue", "fair": False},
    ]
    users = [{"user_id": 7, "zip": "00501", "age": 30}]
    stored = import_as(
        "jsonl",
        write("log.jsonl", lines(event(7, "a"), event(8, "b"))),
        columns=NESTED,
        items=write("items.jsonl", lines(*items)),
        users=write("users.jsonl", lines(*users)),
    )
    rows = {row["title"]: row for row in stored.dataset.items().drop(ITEM_ID).iter_rows(named=True)}
    assert rows["Mug"] == {
        "title": "Mug", "brand.name": "Kiln", "brand.founded": 1950, "tags": ["red", "big"], "fair": True
    }  # fmt: skip
    assert rows["007"]["tags"] == ["blue"]
    assert stored.dataset.users().rows() == [(7, "00501", 30), (8, None, None)]


def test_attributes_may_be_chosen_and_renamed_by_path(write, import_as) -> None:
    items = lines({"id": "a", "brand": {"name": "Kiln"}, "parts": [{"size": 1}]}, {"id": "b"})
    stored = import_as(
        "jsonl",
        write("log.jsonl", lines(event(7, "a"), event(8, "b"))),
        columns=NESTED,
        items=write("items.jsonl", items),
        item_columns={"item_id": "id", "brand": "brand.name"},
    )
    assert sorted(stored.dataset.items()["brand"].to_list(), key=str) == ["Kiln", None]
    with pytest.raises(DataError, match="its 'parts' is a list of more than single values"):
        import_as("jsonl", write("log.jsonl", lines(event(7, "a"))), columns=NESTED, items=write("i.jsonl", items))


def test_a_path_that_no_line_has_is_named_with_those_there_are(write, import_as) -> None:
    with pytest.raises(DataError, match=r"has no column 'user\.name' \(for user_id\); it has: user\.id, user\.country"):
        import_as("jsonl", write("log.jsonl", lines(event(1, 2))), columns=NESTED | {"user_id": "user.name"})
    with pytest.raises(DataError, match="which column is the time"):
        import_as("jsonl", write("log.jsonl", lines({"user": 1, "item": 2})))


def test_a_field_that_only_later_lines_have_is_read(write, import_as) -> None:
    rows = [event(n, n) for n in range(1500)] + [event(1, 2, paid=3)]
    stored = import_as("jsonl", write("log.jsonl", lines(*rows)), columns=NESTED | {"value": "paid"})
    assert stored.dataset.events().filter(pl.col(VALUE) == 3).collect().height == 1


def test_compressed_files_are_the_same_and_what_holds_no_object_is_refused(write, import_as) -> None:
    text = lines(event(1, 2), event(3, 4))
    plain = import_as("jsonl", write("log.jsonl", text), columns=NESTED).dataset.info
    packed = import_as("jsonl", write("log.jsonl.gz", gzip.compress(text.encode())), columns=NESTED).dataset.info
    assert packed.content_hash == plain.content_hash
    with pytest.raises(DataError, match="is empty"):
        import_as("jsonl", write("empty.jsonl", ""))
    with pytest.raises(DataError, match="none of its first 1,000 lines is a JSON object"):
        import_as("jsonl", write("log.csv", "user,item\n1,2\n"))

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recsys.data.string_ids import hash_key
from recsys.errors import DataError, UsageError

COLUMNS = {"user_id": "who", "item_id": "what", "timestamp_ms": "when"}
TIMED = {"user_id": [1, 1, 2], "item_id": [7, 8, 7], "timestamp_ms": [1_600_000_000_000 + n for n in range(3)]}


def csv_of(rows: int, header: str = "who,what,when") -> list[str]:
    return [header] + [f"{n % 7},{n % 11},{1_600_000_000 + n}" for n in range(rows)]


def test_columns_are_mapped_and_the_rest_is_left(write, import_as) -> None:
    text = "junk,who,what,when\nx,1,2,1600000000\ny,3,4,1500000000\n"
    stored = import_as("table", write("log.csv", text), columns=COLUMNS)
    assert stored.events == [(3, 4, 1_500_000_000_000, 1), (1, 2, 1_600_000_000_000, 0)]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_separator_is_seen_in_the_header(write, import_as, separator: str) -> None:
    text = "user_id,item_id,timestamp\n1,2,1600000000\n".replace(",", separator)
    assert import_as("table", write("log.csv", text)).events == [(1, 2, 1_600_000_000_000, 0)]


def test_common_names_need_no_map(write, import_as) -> None:
    text = "rating,movieId,userId,timestamp\n5,2,1,1600000000\n"
    assert import_as("table", write("log.csv", text)).events == [(1, 2, 1_600_000_000_000, 0)]


def test_quotes_crlf_and_a_byte_order_mark(write, import_as) -> None:
    text = '\ufeffwho,what,when\r\n"a, b","he said ""x""",1600000000\r\n"line\none",c,1600000001\r\n'
    stored = import_as("table", write("log.csv", text), columns=COLUMNS)
    assert set(stored.dataset.user_keys()["key"]) == {"a, b", "line\none"}
    assert set(stored.dataset.item_keys()["key"]) == {'he said "x"', "c"}


def test_lines_are_counted_through_quoted_line_ends(write, import_as) -> None:
    lines = csv_of(300)
    lines[2] = '"two\nlines",5,1600000000'
    lines[10] = ",5,1600000000"
    stored = import_as("table", write("log.csv", "\n".join(lines)), columns=COLUMNS, ids="string")
    assert [(line, reason) for _, line, reason, _ in stored.rejected] == [(12, "user_id is empty")]


def test_a_stray_quote_costs_its_own_line_only(write, import_as) -> None:
    lines = csv_of(400)
    lines[1] = '"1","2",1600000000'
    lines[5] = '3,4"5,"1600000000'
    lines[9] = '"3,4,1600000000'
    stored = import_as("table", write("log.csv", "\n".join(lines)), columns=COLUMNS)
    assert [line for _, line, _, _ in stored.rejected] == [6, 10]
    assert len(stored.events) == 398


def test_a_row_with_another_number_of_fields_is_bad(write, import_as) -> None:
    lines = csv_of(400)
    lines[5], lines[9] = "1,2", "1,2,1600000000,9"
    stored = import_as("table", write("log.csv", "\n".join(lines)), columns=COLUMNS)
    assert [(line, reason) for _, line, reason, _ in stored.rejected] == [
        (6, "it has 2 fields where 3 are due"),
        (10, "it has 4 fields where 3 are due"),
    ]


def test_parquet_keeps_its_types(tmp_path: Path, import_as) -> None:
    pl.DataFrame(TIMED, schema_overrides={"user_id": pl.Int32, "item_id": pl.UInt16}).write_parquet(tmp_path / "e.pq")
    items = {
        "item_id": [7, 8],
        "name": ["1984", None],
        "tags": [["a", "b"], []],
        "price": [1.5, None],
        "on": [True, None],
    }
    pl.DataFrame(items).write_parquet(tmp_path / "i.pq")
    stored = import_as("table", tmp_path / "e.pq", items=tmp_path / "i.pq")
    assert stored.dataset.items().schema == {
        "item_id": pl.Int64, "title": pl.String, "tags": pl.List(pl.String), "price": pl.Float64, "on": pl.Boolean,
    }  # fmt: skip
    assert stored.dataset.items().row(0) == (7, "1984", ["a", "b"], 1.5, True)


def test_a_bad_row_of_parquet_is_kept_as_json(tmp_path: Path, import_as) -> None:
    frame = pl.DataFrame({"user_id": range(200), "item_id": [None, *range(199)], "timestamp_ms": [1_600_000_000] * 200})
    frame.write_parquet(tmp_path / "e.parquet")
    stored = import_as("table", tmp_path / "e.parquet")
    row = '{"user_id":0,"item_id":null,"timestamp_ms":1600000000}'
    assert stored.rejected == [("e.parquet", 1, "item_id is empty", row)]


def test_an_order_column_gives_positions_and_ties_keep_their_rows(write, import_as) -> None:
    text = "user,item,step\n1,10,5\n2,20,9\n1,11,2\n1,12,5\n"
    columns = {"user_id": "user", "item_id": "item", "order": "step"}
    stored = import_as("table", write("log.csv", text), columns=columns)
    assert stored.dataset.info.time == "order"
    assert sorted(stored.events) == [(1, 10, 1, 0), (1, 11, 0, 2), (1, 12, 2, 3), (2, 20, 0, 1)]


def test_events_are_named_by_the_source_and_understood_through_a_map(write, import_as) -> None:
    text = "user,item,ts,type\n1,2,1600000000,pv\n1,2,1600000001,Buy\n1,3,1600000002,impression\n"
    columns = {"user_id": "user", "item_id": "item", "timestamp_ms": "ts", "event": "type"}
    names = {"pv": "click", "buy": "conversion"}
    stored = import_as("table", write("log.csv", text), columns=columns, event_names=names)
    assert stored.dataset.events().collect()["event"].to_list() == ["click", "conversion", "impression"]
    with pytest.raises(DataError, match="event 'pv' is none of impression, click, conversion"):
        import_as("table", write("log.csv", text), columns=columns)
    with pytest.raises(UsageError, match="pv=buy: an event is one of"):
        import_as("table", write("log.csv", text), columns=columns, event_names={"pv": "buy"})


def test_event_ids_click_ids_and_values(write, import_as) -> None:
    text = "user,item,ts,type,id,cause,amount\n1,2,1600000001,conversion,b,a,2.5\n1,2,1600000000,click,a,,\n"
    columns = {"user_id": "user", "item_id": "item", "timestamp_ms": "ts", "event": "type"}
    columns |= {"event_id": "id", "click_id": "cause", "value": "amount"}
    stored = import_as("table", write("log.csv", text), columns=columns)
    chosen = stored.dataset.events().select("event_id", "click_id", "value").collect().rows()
    assert chosen == [(hash_key("a"), None, None), (hash_key("b"), hash_key("a"), 2.5)]


def test_an_event_id_counts_once(write, import_as) -> None:
    lines = ["user,item,ts,event_id"] + [f"1,2,1600000000,{n}" for n in range(200)]
    lines[9] = "1,3,1600000000,5"
    stored = import_as("table", write("log.csv", "\n".join(lines)))
    assert [(line, reason) for _, line, reason, _ in stored.rejected] == [(10, "its event_id stands in an earlier row")]


def test_attributes_without_a_map_are_all_columns(write, import_as) -> None:
    log = write("log.csv", "user,item,ts\n1,2,1600000000\n")
    items = write(
        "items.csv", "id,Name,zip,stars,genres,sold\n2,1984,00501,4.5,Action|Drama,true\n3,Up,12345,,Comedy,\n"
    )
    users = write("users.csv", "uid;age\n1;33\n9;44\n")
    stored = import_as("table", log, items=items, users=users)
    assert stored.dataset.items().rows(named=True) == [
        {"item_id": 2, "title": "1984", "zip": "00501", "stars": 4.5, "genres": ["Action", "Drama"], "sold": True},
        {"item_id": 3, "title": "Up", "zip": "12345", "stars": None, "genres": ["Comedy"], "sold": None},
    ]
    assert stored.dataset.users().rows() == [(1, 33), (9, 44)]


def test_a_repeated_item_counts_once(write, import_as) -> None:
    log = write("log.csv", "user,item,ts\n1,2,1600000000\n")
    items = write("items.csv", "item_id,title\n" + "".join(f"{n},t{n}\n" for n in range(150)) + "7,again\n")
    stored = import_as("table", log, items=items)
    assert stored.dataset.items().filter(pl.col("item_id") == 7)["title"].to_list() == ["t7"]
    assert stored.rejected == [("items.csv", 152, "its item_id stands in an earlier row", "7,again")]


def test_items_of_the_attribute_file_have_keys_too(write, import_as) -> None:
    log = write("log.csv", "user,item,ts\nann,mug,1600000000\n")
    stored = import_as("table", log, items=write("items.csv", "item,title\nmug,A mug\npen,A pen\n"))
    keys = dict(stored.dataset.item_keys().iter_rows())
    assert {keys[row["item_id"]]: row["title"] for row in stored.dataset.items().iter_rows(named=True)} == {
        "mug": "A mug", "pen": "A pen",
    }  # fmt: skip


def test_created_ms_is_a_time_in_any_form(write, import_as) -> None:
    log = write("log.csv", "user,item,ts\n1,2,1600000000\n1,3,1600000000\n")
    items = write("items.csv", "item_id,created_ms\n2,2020-09-13 12:26:40\n3,\n")
    assert import_as("table", log, items=items).dataset.items().rows() == [(2, 1_600_000_000_000), (3, None)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": "who", "item_id": "what"}, "which column is the time"),
        (
            {"user_id": "who", "item_id": "nope", "timestamp_ms": "when"},
            r"no column 'nope' \(for item_id\).*who, what, when",
        ),
        ({"user_id": "who", "timestamp_ms": "when"}, "which column is item_id"),
    ],
)
def test_a_missing_column_is_named_with_those_there_are(
    write, import_as, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        import_as("table", write("log.csv", "\n".join(csv_of(3))), columns=columns)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "only blank lines"),
        ("who,what,when\n", "holds no row"),
        ("who,what,what\n1,2,3\n", "names column 'what' more than once"),
        ("who,,what\n1,2,3\n", "a column without a name"),
        (b"PAR1 this is no parquet", "not a readable Parquet file"),
    ],
)
def test_a_file_that_is_no_table_is_refused(write, import_as, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_as("table", write("log.csv", content), columns=COLUMNS)


def test_a_directory_or_nothing_is_refused(tmp_path: Path, import_as) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="there is no file with data; give a file, a folder"):
        import_as("table", tmp_path / "folder")
    with pytest.raises(DataError, match="does not exist"):
        import_as("table", tmp_path / "nowhere")


def test_a_column_of_structs_is_refused_by_name(tmp_path: Path, import_as) -> None:
    pl.DataFrame(TIMED).write_parquet(tmp_path / "e.parquet")
    pl.DataFrame({"item_id": [7], "size": [{"w": 1}]}).write_parquet(tmp_path / "i.parquet")
    with pytest.raises(DataError, match=r"'size' is Struct.*leave it out"):
        import_as("table", tmp_path / "e.parquet", items=tmp_path / "i.parquet")

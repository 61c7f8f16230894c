"""Appending: later events, users and items join a dataset, each once, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.columns import EVENT_ID, ITEM_ID, TIMESTAMP_MS, TITLE, USER_ID
from recsys.data import event_file
from recsys.data.appending import Appended, AppendOptions, append_to_dataset, merged
from recsys.data.dataset import Dataset, write_dataset
from recsys.data.event_file import EVENT_SCHEMA, SORT_KEYS
from recsys.data.importing import ImportOptions, import_dataset
from recsys.data.readers.raw import ReaderOptions
from recsys.data.string_ids import KEY, hash_key
from recsys.errors import DataError, PreconditionError, UsageError
from recsys.testing.toy import EPOCH_MS, toy_items, write_toy

HEADER = "user_id,item_id,timestamp_ms,event,event_id,click_id,value\n"
KEYED = "user_id,item_id,timestamp_ms,event\nann,alien,1600000000,click\nbob,brazil,1600000001,click\n"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "data").path


def csv(tmp_path: Path, *rows: str, name: str = "new.csv") -> Path:
    path = tmp_path / name
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def part(folder: Path, name: str, **columns: list) -> Path:
    """A Parquet part as a drain writes it: typed ids, and columns of keys."""
    folder.mkdir(exist_ok=True)
    size = len(columns[USER_ID])
    defaults = {"event": ["click"] * size, "click_id": [None] * size, "value": [None] * size}
    keys = {"user_key": [None] * size, "item_key": [None] * size}
    schema = {**EVENT_SCHEMA, "user_key": pl.String(), "item_key": pl.String()}
    pl.DataFrame({**defaults, **keys, **columns}, schema=schema).write_parquet(folder / name)
    return folder


def append(path: Path, events: Path | None = None, out: Path | None = None, **options: object) -> Appended:
    reader = ReaderOptions(**{name: options.pop(name) for name in ("columns", "items", "users") if name in options})
    return append_to_dataset(path, events, out, AppendOptions(reader=reader, **options))  # type: ignore[arg-type]


def import_table(path: Path, out: Path, **options: object) -> Dataset:
    return import_dataset("table", path, out, ImportOptions(**options)).dataset  # type: ignore[arg-type]


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_new_events_users_and_items_are_there_and_all_else_is_as_before(toy: Path, tmp_path: Path) -> None:
    before = Dataset.open(toy)
    old_events, old_items = before.events().collect(), before.items()
    rows = csv(tmp_path, "1,50,1700000000000,click,901,,", "7,90,1600000000500,conversion,902,901,2.5")
    done = append(toy, rows)
    assert (done.given, done.added, done.duplicates, done.changed) == (2, 2, 0, True)

    after = Dataset.open(toy)
    events = after.events().collect()
    assert events.sort(*SORT_KEYS).equals(events)
    assert events.join(old_events, on=EVENT_ID, how="semi").equals(old_events)
    new = events.join(old_events, on=EVENT_ID, how="anti").sort(EVENT_ID)
    assert new.drop("event").rows() == [
        (1, 50, 1_700_000_000_000, 901, None, None),
        (7, 90, 1_600_000_000_500, 902, 901, 2.5),
    ]
    assert after.items()[ITEM_ID].to_list() == [*old_items[ITEM_ID], 90]
    assert after.items().head(8).equals(old_items)
    assert after.items().row(8, named=True)[TITLE] is None
    assert after.users()[USER_ID].to_list() == [1, 2, 3, 4, 5, 6, 7]
    assert after.info.counts.events == before.info.counts.events + 2
    assert after.info.content_hash != before.info.content_hash


def test_the_same_events_again_change_nothing_at_all(toy: Path, tmp_path: Path) -> None:
    rows = csv(tmp_path, "1,50,1700000000000,click,901,,", "7,90,1600000000500,conversion,902,901,2.5")
    append(toy, rows)
    before = content_of(toy)
    done = append(toy, rows)
    assert (done.added, done.duplicates, done.changed) == (0, 2, False)
    assert content_of(toy) == before


def test_parts_one_by_one_all_at_once_or_twice_give_the_same_dataset(toy: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    part(parts, "events-1.parquet", user_id=[1, 2], item_id=[50, 50], timestamp_ms=[EPOCH_MS, 5], event_id=[91, 92])
    part(parts, "events-2.parquet", user_id=[9], item_id=[95], timestamp_ms=[EPOCH_MS], event_id=[93])
    whole = append(toy, parts, tmp_path / "whole").dataset
    assert Dataset.open(toy).info.counts.events == 24, "with --out the dataset itself stays"
    append(toy, parts / "events-2.parquet")
    append(toy, parts / "events-1.parquet")
    done = append(toy, parts)
    assert done.dataset.info.content_hash == whole.info.content_hash
    assert done.dataset.info.counts == whole.info.counts


def test_times_of_a_part_are_milliseconds_however_small(toy: Path, tmp_path: Path) -> None:
    part(tmp_path / "p", "e.parquet", user_id=[1], item_id=[50], timestamp_ms=[7], event_id=[91])
    events = append(toy, tmp_path / "p").dataset.events().collect()
    assert events[0].row(0, named=True)[TIMESTAMP_MS] == 7


def test_a_table_is_read_as_an_import_reads_it(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,sku,at,did\n1,50,2021-01-01 00:00:00,view\n1,60,2021-01-02,purchase\n")
    columns = {USER_ID: "who", ITEM_ID: "sku", TIMESTAMP_MS: "at", "event": "did"}
    names = {"view": "click", "purchase": "conversion"}
    for added in (2, 0):
        assert append(toy, tmp_path / "log.csv", columns=columns, event_names=names).added == added


def test_an_import_that_grew_appends_only_what_is_new(tmp_path: Path) -> None:
    rows = ["user_id,item_id,timestamp_ms"] + [f"{n},{n % 3},16000000{n:02}" for n in range(20)]
    (tmp_path / "log.csv").write_text("\n".join(rows[:11]))
    data = import_table(tmp_path / "log.csv", tmp_path / "data")
    assert data.info.row_ids == 10
    (tmp_path / "log.csv").write_text("\n".join(rows))
    done = append(data.path, tmp_path / "log.csv")
    assert (done.added, done.duplicates) == (10, 10)


def test_a_clients_ids_make_way_for_the_numbers_of_imported_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp_ms\n1,1,1600000000\n1,2,1600000001\n")
    data = import_table(tmp_path / "log.csv", tmp_path / "data")
    rows = csv(tmp_path, "1,3,1700000000000,click,1,,", "1,3,1700000001000,conversion,5,1,9.5")
    for _ in range(2):
        events = append(data.path, rows).dataset.events().collect()
        assert events.height == 4
        click, conversion = events.tail(2).rows(named=True)
        assert click[EVENT_ID] == conversion["click_id"] >= 2**62
    assert append(data.path, rows).dataset.info.row_ids == 2


def test_a_source_with_ids_of_its_own_conflicts_with_other_events_of_the_same_id(toy: Path, tmp_path: Path) -> None:
    sound = [f"1,50,{1_700_000_000_000 + n},click,{900 + n},," for n in range(200)]
    done = append(toy, csv(tmp_path, *sound, "1,60,1700000000000,click,0,,"))
    assert done.added == 200
    (rejected,) = done.rejected
    assert rejected.examples == ["line 202: event_id 0 is that of another event in the dataset"]
    kept = pl.read_parquet(toy / "rejected.parquet")
    assert kept["file"].to_list() == ["new.csv"]
    assert done.dataset.info.counts.rejected == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,50,1700000000000,click,901,,", "user_id 'x' is not an integer"),
        (",50,1700000000000,click,901,,", "user_id is empty"),
        ("1,,1700000000000,click,901,,", "item_id is empty"),
        ("1,50,,click,901,,", "timestamp_ms is empty"),
        ("1,50,later,click,901,,", "timestamp_ms 'later' is not a time"),
        ("1,50,1700000000000,stare,901,,", "event 'stare' is none of impression, click, conversion (--event-names"),
        ("1,50,1700000000000,click,,,", "event_id is empty"),
        ("1,50,1700000000000,click,901,,much", "value 'much' is not a number"),
        ("1,50,1700000000000,click,901,,,", "has 8 fields"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_kept(toy: Path, tmp_path: Path, row: str, reason: str) -> None:
    sound = [f"1,50,{1_700_000_000_000 + n},click,{1_000 + n},,1.5" for n in range(120)]
    done = append(toy, csv(tmp_path, *sound, row))
    assert done.added == 120
    assert reason.split("has 8")[0] in done.rejected[0].examples[0]
    assert done.rejected[0].examples[0].startswith("line 122: ")


def test_too_many_bad_rows_are_refused_and_the_dataset_stays(toy: Path, tmp_path: Path) -> None:
    before = content_of(toy)
    with pytest.raises(DataError, match="1 of 2 rows cannot be used"):
        append(toy, csv(tmp_path, "1,50,1700000000000,click,901,,", "x,50,1700000000000,click,902,,"))
    assert content_of(toy) == before
    assert (tmp_path / "data.rejected.parquet").is_file()


def test_a_rejected_row_of_a_part_is_named_by_its_part(toy: Path, tmp_path: Path) -> None:
    many = list(range(200))
    part(
        tmp_path / "p",
        "e1.parquet",
        user_id=[1] * 200,
        item_id=many,
        timestamp_ms=many,
        event_id=[900 + n for n in many],
    )
    part(tmp_path / "p", "e2.parquet", user_id=[1], item_id=[1], timestamp_ms=[1], event_id=[99], user_key=["ann"])
    (rejected,) = append(toy, tmp_path / "p").rejected
    assert rejected.examples == ["e2.parquet line 1: user_key 'ann': the dataset's users have integer ids"]
    assert '"item_id":1' in rejected.rows["row"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "does not exist"),
        (lambda path: csv(path), "holds no row"),
        (lambda path: path, "has no .parquet file"),
        (lambda path: _text(path / "p.parquet", "PAR1 but no more"), "not a readable Parquet file"),
        (lambda path: _text(path / "a.csv", "user_id,item_id\n1,2\n"), "which column is timestamp_ms"),
        (lambda path: _text(path / "a.csv", "item_id,timestamp_ms\n1,2\n"), "which column is user_id"),
    ],
)
def test_a_source_that_is_none_is_refused_in_words(toy: Path, tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message):
        append(toy, make(tmp_path))


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_folder_into_which_nothing_was_drained_yet_adds_nothing(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".drain.lock").touch()
    done = append(toy, tmp_path / "parts")
    assert (done.given, done.changed) == (0, False)


def test_parts_of_different_kinds_are_refused_by_their_column(toy: Path, tmp_path: Path) -> None:
    folder = part(tmp_path / "p", "a.parquet", user_id=[1], item_id=[1], timestamp_ms=[1], event_id=[99])
    pl.read_parquet(folder / "a.parquet").with_columns(pl.col(ITEM_ID).cast(pl.String)).write_parquet(
        folder / "b.parquet"
    )
    with pytest.raises(DataError, match="differ in their columns"):
        append(toy, folder)


def test_nothing_to_append_and_two_appends_at_once_are_refused(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--events, --items or --users"):
        append(toy)
    rows = csv(tmp_path, "1,50,1700000000000,click,901,,")
    opened = Dataset.open

    def meanwhile(path: Path) -> Dataset:
        monkeypatch.setattr(Dataset, "open", opened)
        with pytest.raises(PreconditionError, match="another append"):
            append(toy, rows)
        return opened(path)

    monkeypatch.setattr(Dataset, "open", meanwhile)
    assert append(toy, rows).added == 1


def test_order_only_data_refuse_events_with_times_but_take_attributes(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("1 10\n1 20\n2 10\n")
    data = import_dataset("pairs", tmp_path / "log.txt", tmp_path / "data").dataset
    with pytest.raises(DataError, match="only the order"):
        append(data.path, csv(tmp_path, "1,50,1700000000000,click,901,,"))
    (tmp_path / "items.csv").write_text("item_id,title\n10,Alien\n")
    assert append(data.path, items=tmp_path / "items.csv").dataset.items()[TITLE].to_list() == ["Alien", None]


# Attributes


def test_given_items_are_added_or_replace_what_they_name_column_by_column(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,price,genres,colour\n80,4.5,Crime,red\n95,1,Drama|SciFi,blue\n")
    done = append(toy, items=tmp_path / "items.csv")
    items = done.dataset.items()
    assert done.changed
    assert items.columns == [*toy_items().columns, "colour"]
    assert items.schema["genres"] == pl.List(pl.String)
    heat, new = items.filter(pl.col(ITEM_ID).is_in([80, 95])).rows(named=True)
    assert heat == {ITEM_ID: 80, TITLE: "Heat", "year": None, "price": 4.5, "genres": ["Crime"], "colour": "red"}
    assert (new[TITLE], new["price"], new["genres"]) == (None, 1.0, ["Drama", "SciFi"])
    untouched = items.head(7).drop("colour")
    assert untouched.equals(toy_items().head(7))
    assert not append(toy, items=tmp_path / "items.csv").changed


def test_given_users_too(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id,country\n9,dk\n1,\n")
    users = append(toy, users=tmp_path / "users.csv").dataset.users()
    assert users.rows()[0] == (1, None, 20)
    assert users.rows()[-1] == (9, "dk", None)


def test_an_attribute_keeps_the_type_that_it_has(tmp_path: Path) -> None:
    items = pl.DataFrame({ITEM_ID: [1], "zip": ["007"], "size": [1]})
    events = pl.DataFrame({USER_ID: [1], ITEM_ID: [1], TIMESTAMP_MS: [1]})
    write_dataset(tmp_path / "data", events=events, items=items, name="x", time="real")
    (tmp_path / "items.csv").write_text("item_id,zip,size\n2,12,7\n")
    assert append(tmp_path / "data", items=tmp_path / "items.csv").dataset.items().rows()[1] == (2, "12", 7)
    (tmp_path / "items.csv").write_text("item_id,size\n2,large\n")
    with pytest.raises(DataError, match=r"column 'size' is String here, such as 'large', and Int64 in the dataset"):
        append(tmp_path / "data", items=tmp_path / "items.csv")


# String ids


@pytest.fixture
def keyed(tmp_path: Path) -> Path:
    (tmp_path / "keyed.csv").write_text(KEYED)
    return import_table(tmp_path / "keyed.csv", tmp_path / "keyed").path


def keys_of(dataset: Dataset) -> tuple[set[str], set[str]]:
    users, items = dataset.user_keys(), dataset.item_keys()
    assert users is not None
    assert items is not None
    assert set(users[USER_ID]) == set(dataset.users()[USER_ID]), "every user has its string"
    assert set(items[ITEM_ID]) == set(dataset.items()[ITEM_ID])
    return set(users[KEY]), set(items[KEY])


def test_keys_of_drained_events_complete_the_dictionaries(keyed: Path, tmp_path: Path) -> None:
    part(
        tmp_path / "p", "e.parquet", event_id=[91, 92, 93], timestamp_ms=[EPOCH_MS] * 3,
        user_id=[hash_key("ann"), hash_key("eve"), hash_key("eve")], user_key=[None, "eve", None],
        item_id=[hash_key("dune"), hash_key("alien"), hash_key("dune")], item_key=["dune", None, None],
    )  # fmt: skip
    done = append(keyed, tmp_path / "p")
    assert done.added == 3
    assert keys_of(done.dataset) == ({"ann", "bob", "eve"}, {"alien", "brazil", "dune"})
    assert append(keyed, tmp_path / "p").changed is False


def test_text_in_the_id_columns_of_a_table_is_the_keys(keyed: Path, tmp_path: Path) -> None:
    (tmp_path / "later.csv").write_text(KEYED + "eve,dune,1600000005,click\n")
    done = append(keyed, tmp_path / "later.csv")
    assert (done.added, done.duplicates) == (1, 2)
    assert keys_of(done.dataset) == ({"ann", "bob", "eve"}, {"alien", "brazil", "dune"})


def test_a_hash_that_nobody_names_and_a_key_of_another_hash_are_rejected(keyed: Path, tmp_path: Path) -> None:
    part(tmp_path / "p", "e.parquet", event_id=[91], timestamp_ms=[1], user_id=[12345], item_id=[hash_key("alien")])
    with pytest.raises(DataError, match="user_id 12345 is no user of the dataset, and no user_key says its string"):
        append(keyed, tmp_path / "p")
    part(
        tmp_path / "p", "e.parquet", event_id=[91], timestamp_ms=[1],
        user_id=[hash_key("ann")], user_key=["bob"], item_id=[hash_key("alien")],
    )  # fmt: skip
    with pytest.raises(DataError, match=r"user_key 'bob' is not what user_id \d+ is the hash of"):
        append(keyed, tmp_path / "p")


def test_two_strings_with_one_hash_are_refused_by_name(
    keyed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys.data import string_ids

    real = string_ids.hash_key
    monkeypatch.setattr(string_ids, "hash_key", lambda key: real("ann" if key == "eve" else key))
    (tmp_path / "later.csv").write_text("user_id,item_id,timestamp_ms,event\neve,alien,1600000005,click\n")
    with pytest.raises(DataError, match="the strings 'ann' and 'eve' have the same 63-bit hash"):
        append(keyed, tmp_path / "later.csv")


def test_attributes_of_a_keyed_catalogue_are_given_by_key(keyed: Path, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\nalien,Alien\ndune,Dune\n")
    done = append(keyed, items=tmp_path / "items.csv")
    assert keys_of(done.dataset)[1] == {"alien", "brazil", "dune"}
    titles = dict(done.dataset.items().select(ITEM_ID, TITLE).iter_rows())
    assert titles == {hash_key("alien"): "Alien", hash_key("dune"): "Dune", hash_key("brazil"): None}
    assert not append(keyed, items=tmp_path / "items.csv").changed


# The merge


rows = st.lists(st.tuples(st.integers(-3, 3), st.integers(-50, 50)), unique_by=lambda row: row[1], max_size=40)


def as_events(keys: list[tuple[int, int]]) -> pl.DataFrame:
    columns = {USER_ID: [0] * len(keys), ITEM_ID: [0] * len(keys), "event": ["click"] * len(keys)}
    keyed = {TIMESTAMP_MS: [ms for ms, _ in keys], EVENT_ID: [i for _, i in keys]}
    empty = {"click_id": [None] * len(keys), "value": [None] * len(keys)}
    return pl.DataFrame({**columns, **keyed, **empty}, schema=EVENT_SCHEMA)


@given(keys=rows, split=st.integers(0, 40), size=st.integers(1, 7))
def test_merging_batches_equals_sorting_everything(keys: list[tuple[int, int]], split: int, size: int) -> None:
    held, added = as_events(keys[:split]).sort(*SORT_KEYS), as_events(keys[split:])
    batches = [held[at : at + size] for at in range(0, held.height, size)]
    whole = pl.concat([as_events([]), *merged(batches, added)])
    assert whole.equals(as_events(keys).sort(*SORT_KEYS))


def test_a_dataset_of_many_batches_is_read_and_written_batch_by_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_file, "_ROWS_A_GROUP", 16)
    held = pl.DataFrame({USER_ID: [1] * 200, ITEM_ID: range(200), TIMESTAMP_MS: range(0, 2000, 10)})
    write_dataset(tmp_path / "data", events=held, name="x", time="real")
    times, ids = [5, 6, 999, 1995, 3000], list(range(5000, 5005))
    part(tmp_path / "p", "e.parquet", user_id=[1] * 5, item_id=[900] * 5, timestamp_ms=times, event_id=ids)
    assert max(batch.height for batch in Dataset.open(tmp_path / "data").event_batches()) == 16
    done = append(tmp_path / "data", tmp_path / "p").dataset
    events = done.events().collect()
    assert events[TIMESTAMP_MS].to_list() == sorted([*range(0, 2000, 10), *times])
    shuffled = events.sample(fraction=1, shuffle=True, seed=0)
    at_once = write_dataset(tmp_path / "whole", events=shuffled, name="x", time="real")
    assert at_once.info.content_hash == done.info.content_hash

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from recsys.columns import CLICK_ID, EVENT, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID, VALUE
from recsys.data.dataset import Dataset, DatasetWriter, write_dataset
from recsys.data.event_file import EVENT_SCHEMA
from recsys.errors import DataError
from recsys.testing.toy import toy_events, toy_items, toy_users, write_toy


def test_events_are_sorted_by_time_and_ties_keep_their_order(tmp_path: Path) -> None:
    events = pl.DataFrame({USER_ID: [1, 2, 3, 4], ITEM_ID: [9, 8, 7, 6], TIMESTAMP_MS: [50, 10, 50, 10]})
    dataset = write_dataset(tmp_path / "d", events=events, name="d", time="real")
    assert dataset.events().collect()[USER_ID].to_list() == [2, 4, 1, 3]
    assert dataset.events().collect()[EVENT_ID].to_list() == [1, 3, 0, 2]


def test_columns_that_events_lack_get_their_defaults(tmp_path: Path) -> None:
    events = pl.DataFrame({USER_ID: [1], ITEM_ID: [2], TIMESTAMP_MS: [3]})
    stored = write_dataset(tmp_path / "d", events=events, name="d", time="real").events().collect()
    assert stored.schema == EVENT_SCHEMA
    assert stored.row(0, named=True) == {
        USER_ID: 1, ITEM_ID: 2, EVENT: "click", TIMESTAMP_MS: 3, EVENT_ID: 0, CLICK_ID: None, VALUE: None,
    }  # fmt: skip


def test_items_and_users_of_events_are_always_there(tmp_path: Path) -> None:
    events = pl.DataFrame({USER_ID: [5, 1], ITEM_ID: [40, 20], TIMESTAMP_MS: [1, 2]})
    items = pl.DataFrame({"color": ["red", "blue"], ITEM_ID: [20, 10]})
    dataset = write_dataset(tmp_path / "d", events=events, items=items, name="d", time="real")
    assert dataset.items().rows() == [(10, "blue"), (20, "red"), (40, None)]
    assert dataset.users().rows() == [(1,), (5,)]


def test_the_content_hash_depends_on_the_data_alone(tmp_path: Path) -> None:
    one = write_toy(tmp_path / "one")
    reordered = write_dataset(
        tmp_path / "two",
        events=toy_events().sample(fraction=1.0, shuffle=True, seed=1),
        items=toy_items().reverse(),
        users=toy_users(),
        name="another name",
        time="real",
    )
    changed = write_dataset(
        tmp_path / "three",
        events=toy_events(),
        items=toy_items().with_columns(price=pl.lit(1.0)),
        users=toy_users(),
        name="toy",
        time="real",
    )
    assert one.info.content_hash == reordered.info.content_hash
    assert one.info.content_hash != changed.info.content_hash


def test_counts_tell_event_types_apart(tmp_path: Path) -> None:
    counts = write_toy(tmp_path / "toy").info.counts
    assert (counts.events, counts.users, counts.items) == (24, 6, 8)
    assert counts.by_type == {"impression": 4, "click": 19, "conversion": 1}


@pytest.mark.parametrize("column", [USER_ID, ITEM_ID, TIMESTAMP_MS])
def test_an_event_without_a_needed_value_is_refused_and_nothing_is_left(tmp_path: Path, column: str) -> None:
    events = toy_events().with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise(pl.col(column)).alias(column)
    )
    with pytest.raises(DataError, match=f"'{column}' is empty in 1 rows"):
        write_dataset(tmp_path / "d", events=events, name="d", time="real")
    assert list(tmp_path.iterdir()) == []


def sorted_events(count: int) -> pl.DataFrame:
    number = pl.int_range(count, eager=True)
    return pl.DataFrame({USER_ID: number % 7, ITEM_ID: number % 11, TIMESTAMP_MS: number // 3, EVENT_ID: number})


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_events_written_in_batches_are_the_dataset_written_at_once(tmp_path: Path, size: int) -> None:
    events = sorted_events(100)
    at_once = write_dataset(tmp_path / "once", events=events, name="d", time="real")
    with DatasetWriter(tmp_path / "batches") as writer:
        for batch in events.iter_slices(size):
            writer.write(batch)
        batches = writer.finish(name="d", time="real")
    assert batches.info == at_once.info
    assert batches.events().collect().equals(at_once.events().collect())


def test_batches_out_of_order_are_refused(tmp_path: Path) -> None:
    events = sorted_events(10)
    with pytest.raises(DataError, match="not sorted"), DatasetWriter(tmp_path / "d") as writer:
        writer.write(events.reverse())
    for overlap in (events[3:], events[9:]):
        with DatasetWriter(tmp_path / "d") as writer:
            writer.write(events)
            with pytest.raises(DataError, match=r"event \d at \d does not come after"):
                writer.write(overlap)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_not_finished_changes_nothing(tmp_path: Path) -> None:
    before = write_toy(tmp_path / "d").info
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write(sorted_events(10))
    assert Dataset.open(tmp_path / "d").info == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_repeated_item_is_refused_by_its_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item_id 30 stands in more than one row"):
        write_dataset(
            tmp_path / "d",
            events=toy_events(),
            items=pl.concat([toy_items(), toy_items()[2:3]]),
            name="d",
            time="real",
        )


def test_no_event_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no event"):
        write_dataset(tmp_path / "d", events=toy_events().clear(), name="d", time="real")


def test_a_dataset_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    write_toy(tmp_path / "d")
    write_toy(tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="is not a dataset"):
        write_toy(tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    with pytest.raises(DataError, match="is a file"):
        write_toy(tmp_path / "mine" / "letter.txt")


@pytest.mark.parametrize("file", ["events.parquet", "items.parquet", "users.parquet", "dataset.json"])
def test_open_names_the_file_that_is_missing(tmp_path: Path, file: str) -> None:
    write_toy(tmp_path / "d")
    (tmp_path / "d" / file).unlink()
    with pytest.raises(DataError, match=f"has no {file}"):
        Dataset.open(tmp_path / "d")


def test_open_names_the_column_that_is_missing_or_of_another_type(tmp_path: Path) -> None:
    write_toy(tmp_path / "d")
    file = tmp_path / "d" / "events.parquet"
    events = pl.read_parquet(file)
    events.drop(EVENT_ID).write_parquet(file)
    with pytest.raises(DataError, match=r"events.parquet: has no column 'event_id'"):
        Dataset.open(tmp_path / "d")
    events.with_columns(pl.col(ITEM_ID).cast(pl.String)).write_parquet(file)
    with pytest.raises(DataError, match="column 'item_id' is String, not Int64"):
        Dataset.open(tmp_path / "d")


def test_open_says_what_a_path_is_instead(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Dataset.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file, not a dataset directory"):
        Dataset.open(tmp_path / "file")
    with pytest.raises(DataError, match=r"is not a dataset: it has no dataset\.json"):
        Dataset.open(tmp_path)


def test_an_unknown_key_in_dataset_json_is_refused(tmp_path: Path) -> None:
    write_toy(tmp_path / "d")
    file = tmp_path / "d" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"colour": "red"}))
    with pytest.raises(DataError, match="colour"):
        Dataset.open(tmp_path / "d")
    file.write_text("{")
    with pytest.raises(DataError, match=r"dataset.json"):
        Dataset.open(tmp_path / "d")


def test_a_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot be made: .*file is a file"):
        write_toy(tmp_path / "file" / "below")
    with pytest.raises(DataError, match="cannot be written"):
        write_toy(Path("/proc/nowhere"))


def test_a_disk_that_is_full_is_said_in_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    events = pl.DataFrame({USER_ID: range(3 * 2**18), ITEM_ID: 1, TIMESTAMP_MS: 2})
    with file_size_limit(100_000), pytest.raises(DataError, match=r"d cannot be written: .*File too large"):
        write_dataset(tmp_path / "d", events=events, name="d", time="real")
    assert not list(tmp_path.iterdir())


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The kernel refuses this process files of more bytes, as a full disk would."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)

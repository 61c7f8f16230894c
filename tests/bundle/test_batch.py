"""Recommendations for many users: the answers of each alone, from one process or several, in one whole file."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from recsys.bundle import batch, batch_processes
from recsys.bundle.batch import BatchQuery, Part, answer
from recsys.bundle.batch_file import Columns, batch_file
from recsys.bundle.batch_processes import answers
from recsys.bundle.bundle import Bundle, open_bundle
from recsys.errors import PreconditionError, RecsysError, RequestError, UsageError
from recsys.retrieval.filters import AttributeFilter
from recsys.types import Candidates

EVERYBODY = np.array([1, 2, 3, 4, 5, 6, 99])


@pytest.fixture
def bundle(bundles: Path) -> Bundle:
    return open_bundle(min(path for path in bundles.iterdir() if path.is_dir()))


def lists(part: Part) -> list[tuple[list[int], list[float], list[int]]]:
    found = part.candidates
    return [
        (found.rows[i:j].tolist(), found.scores[i:j].tolist(), found.channels[i:j].tolist())
        for i, j in zip(found.offsets[:-1], found.offsets[1:], strict=True)
    ]


@pytest.mark.parametrize("ranked", [True, False])
def test_a_batch_is_its_users_one_by_one(bundle: Bundle, ranked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    query = BatchQuery(k=3, ranked=ranked)
    alone = [answer(bundle, query, EVERYBODY[b : b + 1]) for b in range(len(EVERYBODY))]
    monkeypatch.setattr(batch, "_AT_ONCE", 3)
    together = answer(bundle, query, EVERYBODY)
    assert lists(together) == [found for part in alone for found in lists(part)]
    assert together.cold.tolist() == [False] * 6 + [True]


def test_what_is_asked_holds_for_every_user(bundle: Bundle) -> None:
    old = AttributeFilter("year", max=1980)
    allowed = batch_processes.row_mask(bundle.catalogue, (old,))
    part = answer(bundle, BatchQuery(k=8, channels=("popularity",), exclude_seen=False), EVERYBODY, allowed)
    years = dict(zip(range(8), bundle.catalogue.frame["year"], strict=True))
    assert [{years[row] for row in rows} for rows, _, _ in lists(part)] == [{1942, 1946, 1977, 1979}] * len(EVERYBODY)


def test_a_channel_that_fails_ends_the_batch(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> Candidates:
        raise ValueError("no such luck")

    monkeypatch.setattr(bundle.channels["item_knn"], "recall", fail, raising=False)
    with pytest.raises(PreconditionError, match="item_knn failed for users 1 to 99"):
        answer(bundle, BatchQuery(), EVERYBODY)


def test_several_processes_answer_as_one_does_in_the_order_of_the_users(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_processes, "PART", 2)
    query = BatchQuery(k=4, filters=(AttributeFilter("price", min=2.0),))
    one, several = list(answers(bundle, query, EVERYBODY, 1)), list(answers(bundle, query, EVERYBODY, 2))
    assert [part.user_ids.tolist() for part in several] == [[1, 2], [3, 4], [5, 6], [99]]
    assert list(map(lists, several)) == list(map(lists, one))
    assert multiprocessing.active_children() == []


def test_a_query_that_does_not_fit_is_refused_before_a_process_is_started(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_processes, "PART", 1)
    monkeypatch.setattr(batch_processes, "_processes", None)
    with pytest.raises(RequestError, match="mind"):
        next(answers(bundle, BatchQuery(channels=("mind",)), EVERYBODY, 2))
    with pytest.raises(RequestError, match="colour"):
        next(answers(bundle, BatchQuery(filters=(AttributeFilter("colour", ("red",)),)), EVERYBODY, 2))


def test_a_process_that_is_killed_ends_the_batch_in_words(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_processes, "PART", 1)
    parts = answers(bundle, BatchQuery(k=2), np.arange(100_000), 2)
    next(parts)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(RecsysError, match="a worker process died"):
        list(parts)


def test_the_file_holds_a_row_a_user_and_rank(bundle: Bundle, tmp_path: Path) -> None:
    keys = pl.DataFrame({"user_id": [1, 2], "key": ["ann", "bob"]})
    query = BatchQuery(k=2)
    columns = Columns(bundle.catalogue, tuple(bundle.channels), ("title", "year"), keys)
    with batch_file(tmp_path / "new" / "all.parquet", columns) as write:
        for user in (1, 2, 99):
            write(answer(bundle, query, np.array([user])))
    frame = pl.read_parquet(tmp_path / "new" / "all.parquet")
    assert frame.columns == ["user_id", "user_key", "rank", "item_id", "title", "year", "score", "channels"]
    assert frame.dtypes[-2:] == [pl.Float32, pl.List(pl.String)]
    assert frame["user_id"].to_list() == [1, 1, 2, 2, 99, 99]
    assert frame["user_key"].to_list() == ["ann", "ann", "bob", "bob", None, None]
    assert frame["rank"].to_list() == [1, 2] * 3
    rows, scores, _ = lists(answer(bundle, query, np.array([2])))[0]
    second = frame.filter(user_id=2)
    assert second["item_id"].to_list() == bundle.catalogue.ids[rows].tolist()
    assert second["title"].to_list() == [bundle.catalogue.titles()[row] for row in rows]
    assert second["score"].to_list() == scores
    assert pq.ParquetFile(tmp_path / "new" / "all.parquet").num_row_groups == 3


def test_masks_become_the_names_of_the_channels(bundle: Bundle) -> None:
    found = Candidates(
        np.zeros(3, np.int32), np.zeros(3, np.float32), np.array([0b101, 0, 0b010], np.uint32), np.array([0, 3])
    )
    table = Columns(bundle.catalogue, ("a", "b", "c")).table(Part(np.array([1]), np.array([False]), found, 0.0))
    assert table["channels"].to_pylist() == [["a", "c"], [], ["b"]]


def test_a_file_that_is_not_finished_leaves_the_old_one(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with batch_file(path, Columns(bundle.catalogue, tuple(bundle.channels))) as write:
            write(answer(bundle, BatchQuery(), EVERYBODY))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["all.parquet"]


@pytest.mark.parametrize("name", ["score", "user_id", "colour"])
def test_an_attribute_that_cannot_be_a_column_is_refused(bundle: Bundle, name: str) -> None:
    with pytest.raises(UsageError, match=f"attribute {name}"):
        Columns(bundle.catalogue, tuple(bundle.channels), (name,))

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from recsys.errors import DataError

COLUMNS = {"user_id": "user", "item_id": "item", "timestamp_ms": "ts"}
LOG = pl.DataFrame(
    {
        "user": [n % 7 for n in range(100)],
        "item": [n * 5 % 11 for n in range(100)],
        "ts": [1_600_000_000 + n * 37 % 50 for n in range(100)],
    }
)


def write_csv(part: pl.DataFrame, path: Path) -> None:
    part.write_csv(path.with_suffix(".csv"))


def write_gzip(part: pl.DataFrame, path: Path) -> None:
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(part.write_csv().encode()))


def write_parquet(part: pl.DataFrame, path: Path) -> None:
    part.write_parquet(path.with_suffix(".parquet"))


def write_jsonl(part: pl.DataFrame, path: Path) -> None:
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in part.iter_rows(named=True)))


@pytest.mark.parametrize("write_part", [write_csv, write_gzip, write_parquet, write_jsonl])
def test_a_folder_of_parts_is_the_file_that_they_make_up(tmp_path: Path, import_as, write_part) -> None:
    format_name = "jsonl" if write_part is write_jsonl else "table"
    LOG.write_csv(tmp_path / "whole.csv")
    whole = import_as("table", tmp_path / "whole.csv", columns=COLUMNS)
    hashes = {whole.dataset.info.content_hash}
    folder = tmp_path / "events"
    folder.mkdir()
    for number, (begin, end) in enumerate([(0, 30), (30, 31), (31, 90), (90, 100)]):
        day = folder / f"day={number // 2}"
        day.mkdir(exist_ok=True)
        write_part(LOG[begin:end], day / f"part-{number}")
    (folder / "_SUCCESS").write_text("")
    (folder / ".part.crc").write_text("x")
    (folder / "part-9.csv").write_text("")
    for path in (folder, folder / "day=*" / "part-?.*"):
        stored = import_as(format_name, path, columns=COLUMNS)
        hashes.add(stored.dataset.info.content_hash)
    assert len(hashes) == 1


def test_a_bad_row_is_named_by_its_part_and_its_line_there(tmp_path: Path, import_as) -> None:
    for number in range(3):
        write_csv(LOG, tmp_path / "events" / f"part-{number}") if number else (tmp_path / "events").mkdir()
    (tmp_path / "events" / "part-1.csv").open("a").write("1,2,noon\n")
    stored = import_as("table", tmp_path / "events", columns=COLUMNS)
    assert stored.rejected == [("part-1.csv", 102, "timestamp_ms 'noon' is not a time", "1,2,noon")]
    assert len(stored.events) == 200


def test_parts_of_other_columns_or_types_are_refused_by_name(tmp_path: Path, import_as) -> None:
    (tmp_path / "events").mkdir()
    write_parquet(LOG, tmp_path / "events" / "a")
    write_parquet(LOG.rename({"item": "article"}), tmp_path / "events" / "b")
    with pytest.raises(DataError, match=r"b\.parquet: its columns \(user, article, ts\) are not those of a\.parquet"):
        import_as("table", tmp_path / "events", columns=COLUMNS)
    write_parquet(LOG.with_columns(pl.col("item").cast(pl.String)), tmp_path / "events" / "b")
    with pytest.raises(DataError, match=r"b\.parquet: its column 'item' is String, that of a\.parquet is Int64"):
        import_as("table", tmp_path / "events", columns=COLUMNS)
    write_parquet(LOG.cast(pl.Int32), tmp_path / "events" / "b")
    assert len(import_as("table", tmp_path / "events", columns=COLUMNS).events) == 200


def test_a_pattern_or_folder_without_files_is_refused(tmp_path: Path, import_as) -> None:
    for path in (tmp_path, tmp_path / "log-*.csv"):
        with pytest.raises(DataError, match="there is no file with data"):
            import_as("table", path, columns=COLUMNS)

"""Lists of users from files: ids or keys, each once, and what is wrong with a line."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recsys.data.string_ids import hash_key
from recsys.data.user_lists import read_users
from recsys.errors import DataError


def test_ids_come_sorted_and_once_from_csv_and_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame({"name": ["c", "a", "b", "a"], "user_id": [30, -1, 20, 30]})
    frame.write_csv(tmp_path / "users.csv")
    frame.write_parquet(tmp_path / "users.parquet")
    for name in ("users.csv", "users.parquet"):
        listed = read_users(tmp_path / name)
        assert listed.ids.tolist() == [-1, 20, 30]
        assert listed.keys is None


def test_one_column_is_enough(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_id\n7\n5\n")
    assert read_users(tmp_path / "users.csv").ids.tolist() == [5, 7]


def test_keys_are_hashed_as_an_import_hashes_them(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_key\nbob\nann\nbob\n7\n")
    listed = read_users(tmp_path / "users.csv")
    assert listed.keys is not None
    assert sorted(listed.keys["key"]) == ["7", "ann", "bob"]
    assert listed.ids.tolist() == sorted(map(hash_key, ("7", "ann", "bob")))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user_id\n1\nbob\n", "line 3, user_id: 'bob' is no integer; the column of string ids is called user_key"),
        ("name,user_id\na,1\nb,\n", "line 3, user_id: it is empty"),
        ("name,user_id\na,1\nb,2,3\n", "line 3, user_id"),
        ("user\n1\n", "has the columns user"),
        ("user_id,user_key\n1,a\n", "has both"),
        ("user_id\n", "no user"),
        ("", "empty"),
    ],
)
def test_a_list_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "users.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_users(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"users\.csv"):
        read_users(tmp_path / "users.csv")

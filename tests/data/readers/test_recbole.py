from __future__ import annotations

from pathlib import Path

import pytest

from recsys.errors import DataError


def test_a_folder_of_atomic_files(write, import_as, tmp_path: Path) -> None:
    write(
        "toy/toy.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t20\t3\t881250949\n2\t10\t4\t881250948.5\n",
    )
    write(
        "toy/toy.item",
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\tsize:float\tvector:float_seq\n"
        "10\tToy Story\tComedy Drama\t1.5\t0.5 1\n20\tHeat\t\t\t\n",
    )
    write("toy/toy.user", "user_id:token\tage:token\tcity:token\n1\t24\tOulu\n2\t53\tLund\n")
    stored = import_as("recbole", tmp_path / "toy")
    assert stored.events == [(2, 10, 881250948500, 1), (1, 20, 881250949000, 0)]
    assert stored.dataset.items().rows(named=True) == [
        {"item_id": 10, "title": "Toy Story", "class": ["Comedy", "Drama"], "size": 1.5, "vector": [0.5, 1.0]},
        {"item_id": 20, "title": "Heat", "class": None, "size": None, "vector": None},
    ]
    assert stored.dataset.users().rows() == [(1, 24, "Oulu"), (2, 53, "Lund")]


def test_without_times_the_order_of_rows_counts(write, import_as) -> None:
    stored = import_as("recbole", write("t.inter", "user_id:token\titem_id:token\na\tx\nb\ty\na\tz\n"))
    assert stored.dataset.info.time == "order"
    assert stored.dataset.info.user_ids == "string"
    assert [row[2] for row in stored.events] == [0, 0, 1]


def test_a_header_without_types_is_refused(write, import_as) -> None:
    with pytest.raises(DataError, match="'user_id' is not a column of its own with a type"):
        import_as("recbole", write("t.inter", "user_id\titem_id\n1\t2\n"))


def test_a_float_that_is_none_is_a_bad_row(write, import_as, tmp_path: Path) -> None:
    write("t.inter", "user_id:token\titem_id:token\n1\t2\n")
    rows = "".join(f"{n}\t{n}\n" for n in range(200))
    write("t.item", f"item_id:token\tprice:float\n{rows}200\tcheap\n")
    stored = import_as("recbole", tmp_path / "t.inter")
    assert [(line, reason) for _, line, reason, _ in stored.rejected] == [(202, "price 'cheap' is not a number")]


def test_a_folder_with_two_sets_is_refused(write, import_as, tmp_path: Path) -> None:
    write("a.inter", "x")
    write("b.inter", "x")
    with pytest.raises(DataError, match=r"exactly one .inter file.*a\.inter, b\.inter"):
        import_as("recbole", tmp_path)

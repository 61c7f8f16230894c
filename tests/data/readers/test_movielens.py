from __future__ import annotations

from pathlib import Path

import pytest

from recsys.columns import EVENT_ID, VALUE
from recsys.data.dataset import Dataset
from recsys.data.importing import ImportOptions, build_dataset
from recsys.data.readers.movielens import read_movielens_100k
from recsys.data.readers.raw import ReaderOptions
from recsys.errors import DataError


def test_dat_files(write, import_as, tmp_path: Path) -> None:
    write("ml/ratings.dat", "1::1193::5::978300760\n2::661::3::978302109\n1::661::3::978300760\n")
    movies = "661::James: The Giant Peach (1996)::Animation|Children's\n1193::Am\xe9lie (2001)::Comedy\n"
    write("ml/movies.dat", movies.encode("latin-1"))
    write("ml/users.dat", "1::F::1::10::48067\n2::M::56::16::07000-2\n")
    stored = import_as("movielens-dat", tmp_path / "ml")
    assert stored.dataset.info.time == "real"
    assert stored.events == [(1, 1193, 978300760000, 0), (1, 661, 978300760000, 2), (2, 661, 978302109000, 1)]
    assert stored.dataset.items().rows(named=True) == [
        {"item_id": 661, "title": "James: The Giant Peach", "genres": ["Animation", "Children's"], "year": 1996},
        {"item_id": 1193, "title": "Am\xe9lie", "genres": ["Comedy"], "year": 2001},
    ]
    assert stored.dataset.users().rows(named=True) == [
        {"user_id": 1, "gender": "F", "age": 1, "occupation": 10, "zip_code": "48067"},
        {"user_id": 2, "gender": "M", "age": 56, "occupation": 16, "zip_code": "07000-2"},
    ]


def test_csv_files(write, import_as, tmp_path: Path) -> None:
    write("ml/ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,29,3.0,1260759179\n")
    movies = (
        'movieId,title,genres\n29,"City of Lost Children, The (1995)",Sci-Fi|Drama\n31,Untitled,(no genres listed)\n'
    )
    write("ml/movies.csv", movies)
    stored = import_as("movielens-csv", tmp_path / "ml")
    assert [row[:3] for row in stored.events] == [(1, 31, 1260759144000), (1, 29, 1260759179000)]
    assert stored.dataset.items().rows(named=True) == [
        {"item_id": 29, "title": "City of Lost Children, The", "genres": ["Sci-Fi", "Drama"], "year": 1995},
        {"item_id": 31, "title": "Untitled", "genres": [], "year": None},
    ]


def test_the_files_of_the_oldest_set(write, tmp_path: Path) -> None:
    write("u/u.data", "196\t242\t3\t881250949\n186\t1\t3\t891717742\n")
    write("u/u.genre", "unknown|0\nAction|1\nComedy|2\n\n")
    write("u/u.item", "1|Toy Story (1995)|01-Jan-1995||http://x|0|0|1\n242|Kolya (1996)|24-Jan-1997||http://y|0|1|1\n")
    write("u/u.user", "186|24|M|technician|85711\n196|53|F|other|94043\n")
    raw = read_movielens_100k(tmp_path / "u", ReaderOptions())
    dataset = build_dataset(raw, tmp_path / "out", ImportOptions(), name="u", source="").dataset
    assert dataset.items().rows(named=True) == [
        {"item_id": 1, "title": "Toy Story", "genres": ["Comedy"], "year": 1995},
        {"item_id": 242, "title": "Kolya", "genres": ["Action", "Comedy"], "year": 1996},
    ]
    assert dataset.users()["occupation"].to_list() == ["technician", "other"]


def values(dataset: Dataset) -> list[float | None]:
    return dataset.events().sort(EVENT_ID).collect()[VALUE].to_list()


def test_a_rating_is_the_value_of_its_click(write, import_as) -> None:
    dat = import_as("movielens-dat", write("ml/ratings.dat", "1::1193::5::978300760\n2::661::3::978302109\n"))
    assert values(dat.dataset) == [5.0, 3.0]
    header = "userId,movieId,rating,timestamp"
    csv = import_as("movielens-csv", write("ml/ratings.csv", f"{header}\n1,31,2.5,1260759144\n1,29,,1260759179\n"))
    assert values(csv.dataset) == [2.5, None]
    bare = import_as("movielens-csv", write("ml/ratings.csv", "userId,movieId,timestamp\n1,31,1260759144\n"))
    assert values(bare.dataset) == [None]


def test_ratings_alone_are_enough(write, import_as) -> None:
    stored = import_as("movielens-dat", write("ml/ratings.dat", "1::2::5::978300760\n"))
    assert stored.dataset.items().rows() == [(2,)]


def test_a_rating_with_a_bad_field_is_named(write, import_as, tmp_path: Path) -> None:
    lines = [f"{n}::{n}::5::978300760" for n in range(300)]
    lines[2], lines[4], lines[6] = "1::2::5", "1::2::5::soon", "1::2::5::978300760::9"
    stored = import_as("movielens-dat", write("ml/ratings.dat", "\n".join(lines)))
    assert [(line, reason) for _, line, reason, _ in stored.rejected] == [
        (3, "it has 3 fields where 4 are due"),
        (5, "timestamp_ms 'soon' is not a time"),
        (7, "it has 5 fields where 4 are due"),
    ]


def test_a_folder_without_ratings_is_refused(tmp_path: Path, import_as) -> None:
    with pytest.raises(DataError, match=r"has no ratings\.dat; give the folder"):
        import_as("movielens-dat", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        import_as("movielens-csv", tmp_path / "nowhere")


def test_a_missing_csv_column_is_named(write, import_as) -> None:
    with pytest.raises(DataError, match="has no column 'movieId'; it has: userId, item"):
        import_as("movielens-csv", write("ml/ratings.csv", "userId,item\n1,2\n"))

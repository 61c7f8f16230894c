"""Readers of the MovieLens releases: `.dat` files with "::" and `.csv` files, and the oldest set's `u.*` files.

A rating becomes a click whose value is the rating.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP_MS, TITLE, USER_ID, VALUE
from recsys.data.readers.raw import PLACE, RawData, RawTable, ReaderOptions
from recsys.data.readers.text import TextFile, header_names
from recsys.errors import DataError

_NO_GENRES: Final = "(no genres listed)"
_YEAR_AT_END: Final = r"\s*\((\d{4})\)\s*$"


def read_movielens_dat(path: Path, options: ReaderOptions) -> RawData:
    """A folder with ratings.dat and, where there, movies.dat and users.dat (MovieLens 1M, 10M)."""
    folder = _folder(path, "ratings.dat")
    ratings = _dat(folder / "ratings.dat", (USER_ID, ITEM_ID, VALUE, TIMESTAMP_MS))
    movies, users = folder / "movies.dat", folder / "users.dat"
    return RawData(
        ratings,
        _movies(_dat(movies, (ITEM_ID, TITLE, "genres"))) if movies.is_file() else None,
        _dat(users, (USER_ID, "gender", "age", "occupation", "zip_code")) if users.is_file() else None,
    )


def read_movielens_csv(path: Path, options: ReaderOptions) -> RawData:
    """A folder with ratings.csv and, where there, movies.csv (MovieLens 20M and later, latest-small)."""
    folder = _folder(path, "ratings.csv")
    columns = {"userId": USER_ID, "movieId": ITEM_ID, "timestamp": TIMESTAMP_MS}
    ratings = _csv(folder / "ratings.csv", columns, {"rating": VALUE})
    movies = folder / "movies.csv"
    movie_columns = {"movieId": ITEM_ID, "title": TITLE, "genres": "genres"}
    return RawData(ratings, _movies(_csv(movies, movie_columns)) if movies.is_file() else None)


def read_movielens_100k(path: Path, options: ReaderOptions) -> RawData:
    """The folder of MovieLens 100K: u.data, u.item (19 columns of 0 or 1 are its genres), u.genre, u.user."""
    folder = _folder(path, "u.data")
    events = TextFile.open(folder / "u.data").fields("\t", (USER_ID, ITEM_ID, VALUE, TIMESTAMP_MS))
    genres = [line.partition("|")[0] for line in (folder / "u.genre").read_text("latin-1").splitlines() if line.strip()]
    item_columns = (ITEM_ID, TITLE, "released", "video", "url", *genres)
    items = TextFile.open(folder / "u.item", latin=True).fields("|", item_columns)
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in genres]
    listed = items.select(*PLACE, ITEM_ID, TITLE, pl.concat_list(flags).list.drop_nulls().alias("genres"))
    users = TextFile.open(folder / "u.user").fields("|", (USER_ID, "age", "gender", "occupation", "zip_code"))
    return RawData(
        RawTable(folder / "u.data", events),
        RawTable(folder / "u.item", split_year(listed)),
        RawTable(folder / "u.user", users),
    )


def split_year(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Moves the year at the end of a title, "Toy Story (1995)", into a column `year`."""
    return frame.with_columns(
        pl.col(TITLE).str.extract(_YEAR_AT_END).alias("year"), pl.col(TITLE).str.replace(_YEAR_AT_END, "")
    )


def _folder(path: Path, needed: str) -> Path:
    if not path.exists():
        raise DataError(f"{path} does not exist")
    folder = path.parent if path.name == needed else path
    if not (folder / needed).is_file():
        raise DataError(f"{path}: has no {needed}; give the folder that holds it")
    return folder


def _movies(movies: RawTable) -> RawTable:
    genres = pl.col("genres").str.split("|").list.filter(pl.element() != _NO_GENRES)
    return RawTable(movies.file, split_year(movies.frame).with_columns(genres))


def _dat(path: Path, names: Sequence[str]) -> RawTable:
    return RawTable(path, TextFile.open(path, latin=True).fields("::", names))


def _csv(path: Path, columns: dict[str, str], where_there: Mapping[str, str] = MappingProxyType({})) -> RawTable:
    file = TextFile.open(path, skip=1)
    names = header_names(file, ",")
    for name in columns:
        if name not in names:
            raise DataError(f"{path}: has no column {name!r}; it has: {', '.join(names)}")
    there = {source: name for source, name in where_there.items() if source in names}
    chosen = [pl.col(source).alias(name) for source, name in (columns | there).items()]
    return RawTable(path, file.csv(",", names).select(*PLACE, *chosen))

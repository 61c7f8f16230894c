"""Reader of RecBole's atomic files: tab-separated, with a type after the name of each column."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from recsys.columns import CREATED_MS, ITEM_ID, TIMESTAMP_MS, TITLE, USER_ID, VALUE
from recsys.data.readers.column_map import recognise
from recsys.data.readers.raw import MALFORMED, PLACE, RawData, RawTable, ReaderOptions
from recsys.data.readers.text import TextFile, header_names
from recsys.errors import DataError

_KINDS: Final = ("token", "token_seq", "float", "float_seq")
_RATING: Final = "rating"


def read_recbole(path: Path, options: ReaderOptions) -> RawData:
    """A NAME.inter file, or a folder with one, and beside it NAME.item and NAME.user where they are.

    A token stands as it is, a token_seq is a list (a title is put together again), a float a number. An
    interaction is a click; its rating, where there is one, is the click's value.
    """
    inter = _interactions(path)
    events, _ = _atomic(inter)
    names = list(events.columns())
    columns = recognise(names, (USER_ID, ITEM_ID, TIMESTAMP_MS))
    for name in (USER_ID, ITEM_ID):
        if name not in columns:
            raise DataError(f"{inter}: its header names no {name}; it has: {', '.join(names)}")
    if _RATING in names:
        columns[VALUE] = _RATING
    chosen = [pl.col(source).alias(name) for name, source in columns.items()]
    return RawData(
        RawTable(inter, events.frame.select(*PLACE, *chosen)),
        _attributes(inter.with_suffix(".item"), ITEM_ID),
        _attributes(inter.with_suffix(".user"), USER_ID),
    )


def _interactions(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_file():
        return path
    found = sorted(path.glob("*.inter"))
    if len(found) != 1:
        held = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{path}: give a folder with exactly one .inter file, or the file; it has: {held}")
    return found[0]


def _attributes(path: Path, id_column: str) -> RawTable | None:
    if not path.is_file():
        return None
    table, kinds = _atomic(path)
    wanted = (ITEM_ID, TITLE, CREATED_MS) if id_column == ITEM_ID else (USER_ID,)
    columns = recognise(list(kinds), wanted)
    if id_column not in columns:
        raise DataError(f"{path}: its header names no {id_column}; it has: {', '.join(kinds)}")
    taken = set(columns.values())
    columns |= {name: name for name in kinds if name not in taken}
    chosen = [_title(source, kinds[source]) if name == TITLE else pl.col(source) for name, source in columns.items()]
    return RawTable(path, table.frame.select(*PLACE, *(c.alias(n) for c, n in zip(chosen, columns, strict=True))))


def _title(source: str, kind: str) -> pl.Expr:
    return pl.col(source).list.join(" ") if kind == "token_seq" else pl.col(source)


def _atomic(path: Path) -> tuple[RawTable, dict[str, str]]:
    """The columns of a file by their plain names, parsed by their kinds, and those kinds."""
    file = TextFile.open(path, skip=1)
    kinds: dict[str, str] = {}
    for typed in header_names(file, "\t"):
        name, _, kind = typed.partition(":")
        if kind not in _KINDS or name in kinds:
            raise DataError(
                f"{path}: the header's {typed!r} is not a column of its own with a type ({', '.join(_KINDS)}), "
                "such as user_id:token"
            )
        kinds[name] = kind
    frame = file.fields("\t", list(kinds))
    numbers = [name for name, kind in kinds.items() if kind == "float" and not _is_time(name)]
    wrong = [
        pl.when(pl.col(name).is_not_null() & pl.col(name).cast(pl.Float64, strict=False).is_null()).then(
            pl.format(f"{name} '{{}}' is not a number", name)
        )
        for name in numbers
    ]
    parsed = frame.with_columns(
        pl.coalesce(MALFORMED, *wrong).alias(MALFORMED), *(_parsed(name, kind) for name, kind in kinds.items())
    )
    return RawTable(path, parsed), kinds


def _is_time(name: str) -> bool:
    return TIMESTAMP_MS in recognise([name], (TIMESTAMP_MS,))


def _parsed(name: str, kind: str) -> pl.Expr:
    column = pl.col(name)
    if kind == "token_seq":
        return column.str.split(" ").list.filter(pl.element() != "")
    if kind == "float_seq":
        return column.str.split(" ").cast(pl.List(pl.Float64), strict=False)
    if kind == "float" and not _is_time(name):
        return column.cast(pl.Float64, strict=False)
    return column

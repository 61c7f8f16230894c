"""Reader of a user's own CSV or Parquet file, by a map of columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl

from recsys.columns import ITEM_ID, USER_ID
from recsys.data.readers.column_map import attribute_map, check_sources, event_map
from recsys.data.readers.parts import joined_parts, parts_of
from recsys.data.readers.raw import FILE, LINE, MALFORMED, PLACE, ROW, TEXT, RawData, RawTable, ReaderOptions
from recsys.data.readers.text import TextFile, check_file, filled, first_sentence, header_names, sniff_separator
from recsys.errors import DataError

_PARQUET_MAGIC: Final = b"PAR1"


def read_table(path: Path, options: ReaderOptions) -> RawData:
    """Events from `path` (a file, a folder of them or a pattern), attributes from the files of `options`."""
    return RawData(
        _events(path, options.columns),
        None if options.items is None else open_attributes(options.items, options.item_columns, ITEM_ID),
        None if options.users is None else open_attributes(options.users, options.user_columns, USER_ID),
    )


def open_table(path: Path) -> RawTable:
    """All columns of a CSV (header line; separator comma, tab, semicolon or bar) or Parquet file."""
    check_file(path)
    with path.open("rb") as file:
        parquet = file.read(4) == _PARQUET_MAGIC
    return _open_parquet(path) if parquet else _open_csv(path)


def _events(path: Path, columns: Mapping[str, str]) -> RawTable:
    table = joined_parts(path, [open_table(part) for part in parts_of(path)])
    return _renamed(table, event_map(path, list(table.columns()), columns))


def open_attributes(path: Path, columns: Mapping[str, str], id_column: str) -> RawTable:
    """A file of item or user attributes under the dataset's names.

    Args:
        path: CSV or Parquet.
        columns: dataset column → column of the file; empty = every column is taken, the id by its name.
        id_column: item_id or user_id.

    Raises:
        DataError: for a file that cannot be read, or whose id is not to be found.
    """
    table = open_table(path)
    present = list(table.columns())
    if not columns:
        columns = attribute_map(path, present, id_column)
    check_sources(path, present, columns)
    if id_column not in columns:
        raise DataError(f"{path}: which column is {id_column}? Add {id_column}=… to its column map")
    return _renamed(table, columns)


def _renamed(table: RawTable, columns: Mapping[str, str]) -> RawTable:
    chosen = [pl.col(source).alias(name) for name, source in columns.items()]
    places = [name for name in (*PLACE, FILE) if name in table.frame.collect_schema()]
    return RawTable(table.file, table.frame.select(*places, *chosen), table.typed, table.rows)


def _open_csv(path: Path) -> RawTable:
    file = TextFile.open(path, skip=1)
    separator = sniff_separator(file.header())
    return RawTable(path, file.csv(separator, header_names(file, separator)), rows=file.rows)


def _open_parquet(path: Path) -> RawTable:
    try:
        schema = pl.read_parquet_schema(path)
        rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {first_sentence(error)}") from None
    if not rows:
        raise DataError(f"{path} holds no row")
    number = pl.col(ROW).cast(pl.Int64)
    columns = [filled(pl.col(name)) if isinstance(kind, pl.String) else pl.col(name) for name, kind in schema.items()]
    frame = (
        pl.scan_parquet(path, glob=False)
        .with_row_index(ROW)
        .select(
            number.alias(ROW),
            (number + 1).alias(LINE),
            pl.struct(list(schema)).struct.json_encode().alias(TEXT),
            pl.lit(None, pl.String).alias(MALFORMED),
            *(column.alias(name) for name, column in zip(schema, columns, strict=True)),
        )
    )
    return RawTable(path, frame, typed=True, rows=rows)

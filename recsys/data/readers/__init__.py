"""The formats that can be imported, each with its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from recsys.data.readers.criteo import read_criteo_conversion
from recsys.data.readers.jsonl import read_jsonl
from recsys.data.readers.movielens import read_movielens_csv, read_movielens_dat
from recsys.data.readers.pairs import read_pairs
from recsys.data.readers.raw import RawData, ReaderOptions
from recsys.data.readers.recbole import read_recbole
from recsys.data.readers.table import read_table
from recsys.data.readers.userbehavior import read_userbehavior

Reader: TypeAlias = Callable[[Path, ReaderOptions], RawData]

READERS: Final[Mapping[str, Reader]] = {
    "pairs": read_pairs,
    "table": read_table,
    "movielens-dat": read_movielens_dat,
    "movielens-csv": read_movielens_csv,
    "recbole": read_recbole,
    "userbehavior": read_userbehavior,
    "jsonl": read_jsonl,
    "criteo-conversion": read_criteo_conversion,
}
"""The explicit table of formats; a new one is a file beside this and a line here."""

"""What a reader hands over: rows taken apart but not yet checked, each with its place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl

ROW: Final = "__row"
"""Number of the row, 0-based, in its file or over all files of a table; an imported event's id."""
LINE: Final = "__line"
"""1-based line of a text file, 1-based row of a Parquet file: where a person looks."""
TEXT: Final = "__text"
"""The row as it stood in the file."""
MALFORMED: Final = "__malformed"
"""Why the row could not be taken apart; null where it could."""
PLACE: Final = (ROW, LINE, TEXT, MALFORMED)
FILE: Final = "__file"
"""Name of the file of a row, beside PLACE where a table is made of several."""

ORDER: Final = "order"
"""A column that orders a user's events where there are no times."""


@dataclass(frozen=True, slots=True)
class RawTable:
    """Rows of one file, or of several as one table, lazily.

    Attributes:
        file: where they came from; of several what they were found by.
        frame: the columns of PLACE (and FILE) and the data columns under the dataset's names; rows in any
            order. Text stands as String, stripped and null where empty, and is typed later; columns of
            other types (Parquet, split lists) stay as they are.
        typed: whether String columns are strings by the file's own word (Parquet), not just unparsed.
        rows: bound on ROW: lines of the file after its header, or rows of a Parquet file; 0 where it is not known.
    """

    file: Path
    frame: pl.LazyFrame
    typed: bool = False
    rows: int = 0

    def columns(self) -> pl.Schema:
        """The data columns and their types."""
        return pl.Schema(
            {name: kind for name, kind in self.frame.collect_schema().items() if name not in (*PLACE, FILE)}
        )


@dataclass(frozen=True, slots=True)
class RawData:
    """Tables of one source.

    Events have user_id, item_id and either timestamp_ms, `order`, or neither (the file's own order).

    Attributes:
        event_names: the format's words for an event → impression, click or conversion.
        time_note: how times are to be understood, for people, where the format settles it.
    """

    events: RawTable
    items: RawTable | None = None
    users: RawTable | None = None
    event_names: Mapping[str, str] = field(default_factory=dict)
    time_note: str = ""


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """What a command line may tell a reader; only `table` and `jsonl` take them.

    Attributes:
        columns: dataset column → column of the file, for events.
        items: a file of item attributes.
        item_columns: as `columns`, for items; empty = every column is an attribute.
        users: a file of user attributes.
        user_columns: as `columns`, for users.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    items: Path | None = None
    item_columns: Mapping[str, str] = field(default_factory=dict)
    users: Path | None = None
    user_columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> list[str]:
        """Names of the flags that were given."""
        flags = {
            "--columns": self.columns,
            "--items": self.items,
            "--item-columns": self.item_columns,
            "--users": self.users,
            "--user-columns": self.user_columns,
        }
        return [flag for flag, value in flags.items() if value]

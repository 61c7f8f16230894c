"""Sorting more rows than memory holds: sorted runs on disk, read back one range of keys after another."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.ipc

ROWS_IN_MEMORY: Final = 1 << 23
"""Rows that are sorted at once: about 400 MB of events."""
_GROUPS_A_RUN: Final = 256
"""Parts of a run that can be read on their own."""

Key: TypeAlias = tuple[Any, ...]
"""Values of the sort keys of one row; they compare as the rows do."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A sorted file of groups of rows.

    Attributes:
        file: Arrow IPC, a record batch a group.
        firsts: the key of each group's first row, ascending.
    """

    file: Path
    firsts: list[Key]


def sorted_batches(
    frame: pl.LazyFrame, keys: Sequence[str], scratch: Path, rows_in_memory: int = ROWS_IN_MEMORY
) -> Iterator[pl.DataFrame]:
    """The rows of a frame sorted by `keys`, in batches of about `rows_in_memory`.

    Rows that all come as one batch touch no disk. More are written as sorted runs of that many rows;
    then the rows of one range of keys after another are read from all runs, sorted and yielded. A range
    reads, beside its own rows, at most 1/256 of each run.

    Args:
        frame: rows in any order. No key is null or NaN; rows with equal keys come in no certain order.
        keys: columns to sort by, the most significant first.
        scratch: a directory for the runs; the caller removes it.
        rows_in_memory: rows that are sorted at once.
    """
    size = max(rows_in_memory // _GROUPS_A_RUN, 1)
    runs: list[_Run] = []

    def spill(rows: pl.DataFrame) -> None:
        runs.append(_write_run(_sorted(rows, keys), keys, size, scratch / f"{len(runs)}.arrow"))

    batches = frame.collect_batches(chunk_size=rows_in_memory, maintain_order=False, engine="streaming")
    only = next(batches, None)
    for batch in batches:
        if only is not None:
            spill(only)
            only = None
        spill(batch)
    if only is not None:
        yield _sorted(only, keys)
    if not runs:
        return
    bounds = _bounds(runs, rows_in_memory // size)
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        yield _sorted(_read_range(runs, keys, low, high), keys)


def _sorted(rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Rows by `keys`: stably by one key after another, a third of the work of all at once where many are equal."""
    for key in reversed(keys):
        rows = rows.sort(key, maintain_order=True)
    return rows


def spooled(batches: Iterable[pl.DataFrame], scratch: Path) -> pl.LazyFrame:
    """Batches of the same columns, at least one, as a frame to be read once more; only one stays in memory.

    Args:
        batches: what to keep.
        scratch: a directory for them; the caller removes it when the frame has been read.
    """
    files: list[Path] = []
    only: pl.DataFrame | None = None
    for batch in batches:
        for rows in (only, batch) if only is not None else (batch,) if files else ():
            files.append(scratch / f"{len(files)}.arrow")
            rows.write_ipc(files[-1], compression="lz4")
        only = None if files else batch
    return pl.scan_ipc(files) if only is None else only.lazy()


def _write_run(rows: pl.DataFrame, keys: Sequence[str], size: int, file: Path) -> _Run:
    """Writes sorted rows in groups of `size`."""
    rows.write_ipc(file, compression="lz4", record_batch_size=size)
    return _Run(file, rows.select(keys).gather_every(size).rows())


def _bounds(runs: Sequence[_Run], groups: int) -> list[Key]:
    """Keys between which there are about as many rows as in so many groups; the first is the least of all."""
    firsts = sorted(first for run in runs for first in run.firsts)
    return list(dict.fromkeys(firsts[::groups]))


def _read_range(runs: Sequence[_Run], keys: Sequence[str], low: Key, high: Key | None) -> pl.DataFrame:
    """The rows with low <= key < high, of all runs; of all above when there is no `high`."""
    parts = []
    for run in runs:
        first = max(bisect_left(run.firsts, low) - 1, 0)
        last = len(run.firsts) if high is None else bisect_left(run.firsts, high)
        parts.append(_read_groups(run.file, range(first, last)))
    rows = pl.concat(parts).lazy().filter(~_below(keys, low))
    return (rows if high is None else rows.filter(_below(keys, high))).collect()


def _read_groups(file: Path, groups: range) -> pl.DataFrame:
    with pa.OSFile(str(file)) as opened, pa.ipc.open_file(opened) as reader:
        table = pl.from_arrow(pa.Table.from_batches([reader.get_batch(group) for group in groups], reader.schema))
    assert isinstance(table, pl.DataFrame)
    return table


def _below(keys: Sequence[str], bound: Key) -> pl.Expr:
    """Whether a row comes before `bound`."""
    below = pl.lit(False)
    for name, value in zip(reversed(keys), reversed(bound), strict=True):
        below = (pl.col(name) < value) | ((pl.col(name) == value) & below)
    return below

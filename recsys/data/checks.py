"""Checks of raw rows: what is wrong with a row, how many are wrong, and how many are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from recsys.data.readers.raw import FILE, LINE, MALFORMED, ROW, TEXT, RawTable
from recsys.errors import DataError
from recsys.files import replacing

REJECTED_SCHEMA: Final = pl.Schema({"file": pl.String(), "line": pl.Int64(), "reason": pl.String(), "row": pl.String()})
"""Columns of `rejected.parquet`."""
MOST_KEPT: Final = 1_000_000
"""Rejected rows that are kept of one file."""
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that may be wrong with a row: when, and what to say then."""

    fails: pl.Expr
    reason: pl.Expr


WELL_FORMED: Final = Check(pl.col(MALFORMED).is_not_null(), pl.col(MALFORMED))


@dataclass(frozen=True, slots=True, eq=False)
class Rejected:
    """The rows of one file that were left out.

    Attributes:
        file: where they stand.
        total: rows of the file.
        count: rows left out.
        rows: the first MOST_KEPT of them, columns of REJECTED_SCHEMA.
    """

    file: Path
    total: int
    count: int
    rows: pl.DataFrame

    @property
    def examples(self) -> list[str]:
        """The first few as text."""
        first = self.rows.select("file", "line", "reason").head(_SHOWN)
        return [
            f"{'' if file == self.file.name else f'{file} '}line {line}: {reason}"
            for file, line, reason in first.iter_rows()
        ]


def passing(frame: pl.LazyFrame, checks: Sequence[Check]) -> pl.LazyFrame:
    """The rows that fail no check."""
    return frame.filter(~_fails(checks)) if checks else frame


def failing(table: RawTable, checks: Sequence[Check], total: int) -> Rejected:
    """Counts the rows that fail a check and keeps them with the first reason.

    Args:
        table: the rows.
        checks: what may be wrong; none when nothing can be.
        total: rows of the file, of which earlier checks may have left some out already.
    """
    count = 0
    if checks:
        count = int(table.frame.select(_fails(checks).sum()).collect(engine="streaming").item())
    if not count:
        return Rejected(table.file, total, 0, pl.DataFrame(schema=REJECTED_SCHEMA))
    failed = [f"__failed_{index}" for index in range(len(checks))]
    file = pl.col(FILE) if FILE in table.frame.collect_schema() else pl.lit(table.file.name)
    reasons = [pl.when(name).then(check.reason) for name, check in zip(failed, checks, strict=True)]
    rows = (
        table.frame.with_columns(check.fails.alias(name) for name, check in zip(failed, checks, strict=True))
        .filter(pl.any_horizontal(failed))
        .head(MOST_KEPT)
        .sort(ROW)
        .select(
            file.alias("file"),
            pl.col(LINE).alias("line"),
            pl.coalesce(*reasons).alias("reason"),
            pl.col(TEXT).alias("row"),
        )
        .collect()
    )
    return Rejected(table.file, total, count, rows)


def refuse_too_many(rejected: Rejected, max_rejected: float, keep_at: Path) -> None:
    """Fails an import of which too much would be left out.

    Args:
        rejected: the rows left out of one file.
        max_rejected: the share that may be.
        keep_at: where to write them when they are too many.

    Raises:
        DataError: counts them, shows the first few and says where all of them are.
    """
    if rejected.total and rejected.count <= max_rejected * rejected.total and rejected.count < rejected.total:
        return
    if not rejected.total:
        raise DataError(f"{rejected.file} holds no row")
    with replacing(keep_at) as temporary:
        rejected.rows.write_parquet(temporary)
    limit = f"more than --max-rejected {max_rejected:g} allows"
    allowed = "all there are" if rejected.count == rejected.total else limit
    raise DataError(
        f"{rejected.file}: {rejected.count:,} of {rejected.total:,} rows cannot be used, {allowed} "
        f"({'; '.join(rejected.examples)}); they are in {keep_at}"
    )


def _fails(checks: Sequence[Check]) -> pl.Expr:
    return pl.any_horizontal(check.fails.fill_null(False) for check in checks).alias("fails")

"""Text files as lazy frames of lines or of delimited fields, at the speed of polars' own scanner.

Lines are split by vectorised string expressions, so that a separator may be of any length ("::"), a
bad line costs nothing but itself, and its number and text are known. Only a file that quotes its
fields goes through a CSV parser.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from recsys.data.readers.raw import LINE, MALFORMED, ROW, TEXT
from recsys.errors import DataError

_REPLACEMENT: Final = "\ufffd"
_BOM: Final = "\ufeff"
_HEAD: Final = 1 << 14
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How gzip and zstd files begin."""
_OVERFLOW: Final = "__overflow"
_FIELDS: Final = "__fields"


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file, plain, gzip or zstd, that has been looked through once.

    Attributes:
        path: where it is.
        source: what is scanned: the path, or the whole content where it had to be decoded.
        rows: lines after the header, blank ones too.
        quoted: whether any line has a double quote.
        lossy: whether some bytes are not UTF-8; the lines with them are malformed.
        skip: lines of its header.
    """

    path: Path
    source: Path | bytes
    rows: int
    quoted: bool
    lossy: bool
    skip: int = 0

    @classmethod
    def open(cls, path: Path, *, skip: int = 0, latin: bool = False) -> TextFile:
        """Looks a file through.

        Args:
            path: the file.
            skip: lines of a header, which are not rows.
            latin: whether a file that is not UTF-8 is Latin-1, as old releases are; read into memory.

        Raises:
            DataError: when it is missing, a directory, empty or unreadable.
        """
        check_file(path)
        _check_text(path)
        source: Path | bytes = path
        lossy = False
        try:
            count, quoted = _look(source, lossy)
        except (pl.exceptions.PolarsError, OSError) as error:
            if "utf" not in str(error).lower():
                raise DataError(f"{path}: cannot be read as text: {first_sentence(error)}") from None
            if latin:
                source = path.read_bytes().decode("latin-1").encode()
            else:
                lossy = True
            count, quoted = _look(source, lossy)
        if not count:
            raise DataError(f"{path} is empty")
        return cls(path, source, max(count - skip, 0), quoted, lossy, skip)

    def header(self) -> str:
        """The first line that is not blank, without a byte order mark."""
        head = _scan(self.source, self.lossy).select(_clean(pl.col(TEXT))).filter(pl.col(TEXT) != "").head(1).collect()
        if not head.height:
            raise DataError(f"{self.path} has only blank lines")
        return str(head.item())

    def lines(self) -> pl.LazyFrame:
        """ROW, LINE, TEXT and MALFORMED of every line that is not blank, after the header."""
        text = _clean(pl.col(TEXT))
        garbled = pl.when(text.str.contains(_REPLACEMENT, literal=True)).then(pl.lit("it is not valid UTF-8"))
        number = pl.col(ROW).cast(pl.Int64)
        return (
            _scan(self.source, self.lossy)
            .select(
                (number - self.skip).alias(ROW),
                (number + 1).alias(LINE),
                text.alias(TEXT),
                (garbled if self.lossy else pl.lit(None, pl.String)).alias(MALFORMED),
            )
            .filter(pl.col(ROW) >= 0, pl.col(TEXT) != "")
        )

    def fields(self, separator: str, names: Sequence[str]) -> pl.LazyFrame:
        """`lines` split at `separator` into columns `names`, all String, null where empty.

        A line with another number of fields is malformed. Double quotes mean nothing.
        """
        count = len(names)
        parts = pl.col(TEXT).str.split_exact(separator, count).alias(_FIELDS)
        part = [pl.col(_FIELDS).struct.field(f"field_{index}") for index in range(count + 1)]
        wrong = part[count].is_not_null() | part[count - 1].is_null()
        found = pl.col(TEXT).str.split(separator).list.len()
        reason = pl.format(f"it has {{}} fields where {count} are due", found)
        return (
            self.lines()
            .with_columns(parts)
            .select(
                ROW,
                LINE,
                TEXT,
                pl.coalesce(pl.col(MALFORMED), pl.when(wrong).then(reason)).alias(MALFORMED),
                *(filled(part[index]).alias(name) for index, name in enumerate(names)),
            )
        )

    def csv(self, separator: str, names: Sequence[str]) -> pl.LazyFrame:
        """As `fields`, for a file with a header line whose fields may be quoted.

        A file that the fast CSV parser refuses (a stray quote) is taken line by line, so that only
        the lines at fault are malformed.
        """
        if not self.quoted:
            return self.fields(separator, names)
        parsed = self._parsed(separator, names)
        try:
            parsed.select(pl.col(names[-1]).is_null().sum(), pl.col(names[0]).is_null().sum()).collect(
                engine="streaming"
            )
        except pl.exceptions.ComputeError:
            return self._line_by_line(separator, names)
        return parsed

    def _parsed(self, separator: str, names: Sequence[str]) -> pl.LazyFrame:
        """Through polars' CSV parser. Quoted fields may hold line ends, which `LINE` counts."""
        scanned = pl.scan_csv(
            self.source,
            separator=separator,
            has_header=False,
            skip_lines=self.skip,
            schema={**dict.fromkeys(names, pl.String), _OVERFLOW: pl.String},
            truncate_ragged_lines=True,
            missing_columns="insert",
            encoding="utf8-lossy" if self.lossy else "utf8",
            row_index_name=ROW,
            glob=False,
        )
        columns = [pl.col(name) for name in names]
        inner_lines = pl.sum_horizontal(column.str.count_matches("\n", literal=True) for column in columns)
        above = inner_lines.cum_sum().shift(1, fill_value=0).cast(pl.Int64)
        number = pl.col(ROW).cast(pl.Int64)
        overfull = pl.when(pl.col(_OVERFLOW).is_not_null()).then(
            pl.lit(f"it has more than the {len(names)} fields of the header")
        )
        garbled = pl.when(
            pl.any_horizontal(column.str.contains(_REPLACEMENT, literal=True) for column in columns)
        ).then(pl.lit("it is not valid UTF-8"))
        stripped = [filled(pl.col(name).str.strip_chars_end("\r")).alias(name) for name in names]
        return scanned.select(
            number.alias(ROW),
            (number + self.skip + 1 + above).alias(LINE),
            pl.concat_str(columns, separator=separator, ignore_nulls=False).alias(TEXT),
            pl.coalesce(overfull, garbled if self.lossy else pl.lit(None, pl.String)).alias(MALFORMED),
            *stripped,
        ).filter(pl.any_horizontal(pl.col(name).is_not_null() for name in names))

    def _line_by_line(self, separator: str, names: Sequence[str]) -> pl.LazyFrame:
        """One record a line, those without quotes first; the others through the csv module, in strict mode."""
        quoted = pl.col(TEXT).str.contains('"', literal=True)
        kind = pl.Struct({**dict.fromkeys(names, pl.String), MALFORMED: pl.String})

        def parse(lines: pl.Series) -> pl.Series:
            return pl.Series(lines.name, [_parse_line(line, separator, names) for line in lines], kind)

        by_hand = (
            self.lines()
            .filter(quoted)
            .with_columns(pl.col(TEXT).map_batches(parse, return_dtype=kind, is_elementwise=True).alias(_FIELDS))
            .select(
                ROW,
                LINE,
                TEXT,
                pl.coalesce(MALFORMED, pl.col(_FIELDS).struct.field(MALFORMED)).alias(MALFORMED),
                *(filled(pl.col(_FIELDS).struct.field(name)).alias(name) for name in names),
            )
        )
        plain = self.fields(separator, names).filter(~quoted)
        return pl.concat([plain, by_hand])


def check_file(path: Path) -> None:
    """Refuses a path that is not a file.

    Raises:
        DataError: says whether it is missing or a directory.
    """
    if path.is_dir():
        raise DataError(f"{path} is a directory; give a file")
    if not path.is_file():
        raise DataError(f"{path} does not exist")


def _check_text(path: Path) -> None:
    """Refuses a file that is plainly binary, such as Parquet given as pairs."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if b"\0" in head and not head.startswith(_COMPRESSED):
        raise DataError(f"{path} is not a text file: it holds zero bytes")


def header_names(file: TextFile, separator: str) -> list[str]:
    """Column names of the header line.

    Raises:
        DataError: when a name is empty or repeated.
    """
    names = [name.strip() for name in next(csv.reader([file.header()], delimiter=separator))]
    for name in names:
        if not name:
            raise DataError(f"{file.path}: the header line has a column without a name: {file.header()[:200]!r}")
        if names.count(name) > 1:
            raise DataError(f"{file.path}: the header line names column {name!r} more than once")
    return names


def sniff_separator(header: str) -> str:
    """The most frequent of the usual separators in a header line."""
    return max(",\t;|", key=header.count)


def filled(text: pl.Expr) -> pl.Expr:
    """Text without surrounding blanks, null where nothing is left."""
    stripped = text.str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def first_sentence(error: Exception) -> str:
    """The part of a library's message that fits in one line."""
    return str(error).strip().split("\n")[0]


def _scan(source: Path | bytes, lossy: bool) -> pl.LazyFrame:
    """Row index and text of every line; polars' line scanner knows UTF-8 only, its CSV scanner is laxer."""
    if not lossy:
        return pl.scan_lines(source, name=TEXT, row_index_name=ROW, glob=False)
    return pl.scan_csv(
        source,
        schema={TEXT: pl.String},
        has_header=False,
        separator="\x01",
        quote_char=None,
        encoding="utf8-lossy",
        row_index_name=ROW,
        extra_columns="ignore",
        glob=False,
    ).with_columns(pl.col(TEXT).fill_null(""))


def _look(source: Path | bytes, lossy: bool) -> tuple[int, bool]:
    """How many lines there are, and whether any has a double quote."""
    found = pl.col(TEXT).str.contains('"', literal=True).any()
    try:
        count, quoted = _scan(source, lossy).select(pl.len(), found.alias("quoted")).collect(engine="streaming").row(0)
    except pl.exceptions.NoDataError:
        return 0, False
    return count, bool(quoted)


def _clean(text: pl.Expr) -> pl.Expr:
    return text.str.strip_prefix(_BOM).str.strip_chars_end("\r\n")


def _parse_line(line: str, separator: str, names: Sequence[str]) -> dict[str, str | None]:
    try:
        values = next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error as error:
        return {MALFORMED: f"its quotes do not match ({error})"}
    if len(values) != len(names):
        return {MALFORMED: f"it has {len(values)} fields where {len(names)} are due"}
    return dict(zip(names, values, strict=True))

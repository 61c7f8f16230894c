"""A table that comes as several files: the parts in a folder or of a pattern, one after another."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recsys.data.readers.raw import FILE, ROW, RawTable
from recsys.errors import DataError


def parts_of(path: Path) -> list[Path]:
    """The files that `path` means, sorted by name: itself, all in and below the folder, or those of a pattern.

    In a pattern such as `logs/*/part-?.csv` "*" and "?" stand for parts of a name. Empty files are no parts,
    nor is what has a name that begins with "." or "_", as notes that other programs leave have.

    Raises:
        DataError: when there is none.
    """
    if path.is_dir():
        found = [file for file in path.rglob("*") if not any(name[0] in "._" for name in file.relative_to(path).parts)]
    elif path.exists() or not any(sign in str(path) for sign in "*?["):
        return [path]
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).name[0] not in "._"]
    parts = sorted(file for file in found if file.is_file() and file.stat().st_size)
    if not parts:
        raise DataError(f"{path}: there is no file with data; give a file, a folder of files, or a pattern")
    return parts


def joined_parts(path: Path, parts: Sequence[RawTable]) -> RawTable:
    """Tables of the same columns as one, whose rows are numbered through.

    Args:
        path: what they were found by.
        parts: at least one table, `rows` of each known.

    Raises:
        DataError: names a file whose columns are not those of the first, or not of their types.
    """
    if len(parts) == 1:
        return parts[0]
    first, names = parts[0].columns(), parts[0].frame.collect_schema().names()
    frames, above = [], 0
    for part in parts:
        columns = part.columns()
        if set(columns) != set(first):
            raise DataError(
                f"{part.file}: its columns ({', '.join(columns)}) are not those of {parts[0].file.name} "
                f"({', '.join(first)}); import them separately, or give a pattern that fits one kind"
            )
        for name, kind in columns.items():
            if kind != first[name] and not (kind.is_numeric() and first[name].is_numeric()):
                raise DataError(
                    f"{part.file}: its column {name!r} is {kind}, that of {parts[0].file.name} is {first[name]}; "
                    "import them separately"
                )
        numbered = part.frame.with_columns(pl.col(ROW) + above, pl.lit(part.file.name).alias(FILE))
        frames.append(numbered.select(*names, FILE))
        above += part.rows
    return RawTable(path, pl.concat(frames, how="vertical_relaxed"), all(part.typed for part in parts), above)

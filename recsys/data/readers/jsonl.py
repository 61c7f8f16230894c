"""Reader of JSON lines, one object a line, by a map of columns whose sources may be paths into nested objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import polars as pl

from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.readers.column_map import attribute_map, check_sources, event_map
from recsys.data.readers.parts import joined_parts, parts_of
from recsys.data.readers.raw import LINE, MALFORMED, ORDER, ROW, TEXT, RawData, RawTable, ReaderOptions
from recsys.data.readers.text import TextFile, filled
from recsys.errors import DataError

_SAMPLE: Final = 1_000
_VALUES: Final = "__values"

KeyPath: TypeAlias = tuple[str, ...]
"""Keys from the outermost object to a value."""


def read_jsonl(path: Path, options: ReaderOptions) -> RawData:
    """Events from `path` (a file, a folder of them or a pattern), attributes from the files of `options`.

    A source is a key, or keys with dots between them: `user.id` is `id` in the object `user`. Values are
    taken as the text of a CSV file would be: 7 and "7" are the same id.
    """
    files = parts_of(path)
    first = TextFile.open(files[0])
    known = _known_paths(first.lines().head(_SAMPLE).select(TEXT).collect().to_series())
    if not known:
        raise DataError(f"{files[0]}: none of its first {_SAMPLE:,} lines is a JSON object with fields")
    rare = [source for name, source in options.columns.items() if name not in (USER_ID, ITEM_ID, TIMESTAMP_MS, ORDER)]
    columns = event_map(path, [*known, *rare], options.columns)
    paths = {name: known.get(source) or tuple(source.split(".")) for name, source in columns.items()}
    return RawData(
        joined_parts(path, [_events(file, paths) for file in files]),
        None if options.items is None else _attributes(options.items, options.item_columns, ITEM_ID),
        None if options.users is None else _attributes(options.users, options.user_columns, USER_ID),
    )


def _events(path: Path, paths: Mapping[str, KeyPath]) -> RawTable:
    kind = pl.Struct({**dict.fromkeys(paths, pl.String), MALFORMED: pl.String})
    nested = _nested_type(path, paths.values())
    parsed = pl.col(TEXT).map_batches(
        lambda lines: _decode(lines, nested, paths).to_struct(lines.name), return_dtype=kind, is_elementwise=True
    )
    file = TextFile.open(path)
    frame = (
        file.lines()
        .with_columns(parsed.alias(_VALUES))
        .select(
            ROW,
            LINE,
            TEXT,
            pl.coalesce(MALFORMED, pl.col(_VALUES).struct.field(MALFORMED)).alias(MALFORMED),
            *(filled(pl.col(_VALUES).struct.field(name)).alias(name) for name in paths),
        )
    )
    return RawTable(path, frame, rows=file.rows)


def _decode(lines: pl.Series, nested: pl.Struct, paths: Mapping[str, KeyPath]) -> pl.DataFrame:
    """The values at `paths` of every line as text, and why a line has none; halves what polars refuses as a whole.

    What becomes of a line thus does not depend on the lines beside it.
    """
    bare = lines.str.strip_chars()
    if bool((bare.str.starts_with("{") & bare.str.ends_with("}")).all()):
        try:
            decoded = bare.str.json_decode(nested)
        except pl.exceptions.ComputeError:
            pass
        else:
            if len(decoded) == len(lines):
                values = decoded.to_frame().select(_at(decoded.name, keys).alias(name) for name, keys in paths.items())
                return values.with_columns(pl.lit(None, pl.String).alias(MALFORMED))
    if len(lines) == 1:
        reason = pl.Series(MALFORMED, [_reason(lines[0], paths)], pl.String)
        return pl.DataFrame([pl.Series(name, [None], pl.String) for name in paths] + [reason])
    middle = len(lines) // 2
    return pl.concat([_decode(lines[:middle], nested, paths), _decode(lines[middle:], nested, paths)])


def _at(column: str, keys: KeyPath) -> pl.Expr:
    value = pl.col(column)
    for key in keys:
        value = value.struct.field(key)
    return value


def _nested_type(path: Path, paths: Iterable[KeyPath]) -> pl.Struct:
    """The type of an object with text at every path."""
    tree: dict[str, Any] = {}
    for keys in sorted(set(paths), key=len):
        inner: Any = tree
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if inner is None:
                raise DataError(f"{path}: {key!r} cannot be both a value and an object with {'.'.join(keys)!r}")
        inner[keys[-1]] = None
    return _struct(tree)


def _struct(tree: Mapping[str, Any]) -> pl.Struct:
    return pl.Struct({key: pl.String() if inner is None else _struct(inner) for key, inner in tree.items()})


def _known_paths(lines: Iterable[str]) -> dict[str, KeyPath]:
    """The names of all values of some lines, keys joined by dots, and their paths."""
    known: dict[str, KeyPath] = {}
    for line in lines:
        fields = _parse(line)
        if isinstance(fields, dict):
            known |= {".".join(keys): keys for keys, _ in _leaves(fields)}
    return known


def _leaves(fields: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _parse(line: str) -> dict[str, Any] | str:
    """The object of a line, its numbers as they are written; or what is wrong with the line."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        fields = json.loads(line, parse_int=str, parse_float=str, parse_constant=refuse)
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        return f"it is not JSON: {error}"
    return fields if isinstance(fields, dict) else "it is not a JSON object"


def _reason(line: str, paths: Mapping[str, KeyPath]) -> str:
    """Why a line that polars refuses is refused."""
    fields = _parse(line)
    if isinstance(fields, str):
        return fields
    for keys in paths.values():
        value: Any = fields
        for depth, key in enumerate(keys):
            if not isinstance(value, dict):
                return f"its {'.'.join(keys[:depth])!r} is not an object"
            if (value := value.get(key)) is None:
                break
        if isinstance(value, dict | list):
            return f"its {'.'.join(keys)!r} is not a single value"
    return "it is not JSON that can be read"


def _attributes(path: Path, columns: Mapping[str, str], id_column: str) -> RawTable:
    """A table of attributes, in memory; every field of every line where no map says which."""
    lines = TextFile.open(path).lines().collect()
    rows = [_parse(line) for line in lines[TEXT]]
    values = [{".".join(keys): value for keys, value in _leaves(row)} if isinstance(row, dict) else {} for row in rows]
    present = list(dict.fromkeys(name for row in values for name in row))
    if not columns:
        columns = attribute_map(path, present, id_column)
    check_sources(path, present, columns)
    if id_column not in columns:
        raise DataError(f"{path}: which field is {id_column}? Add {id_column}=… to its column map")
    wrong = pl.Series(MALFORMED, [row if isinstance(row, str) else _not_flat(row, columns) for row in rows], pl.String)
    data = [_column(name, [row.get(source) for row in values]) for name, source in columns.items()]
    return RawTable(path, lines.with_columns(pl.coalesce(MALFORMED, wrong).alias(MALFORMED), *data).lazy())


def _not_flat(row: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    for keys, value in _leaves(row):
        name = ".".join(keys)
        if name in columns.values() and isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
            return f"its {name!r} is a list of more than single values"
    return None


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    """Values as text, or as lists of text where any of them is a list."""
    if not any(isinstance(value, list) for value in values):
        return pl.Series(name, [_text(value) for value in values], pl.String)
    lists = [value if isinstance(value, list) or value is None else [value] for value in values]
    return pl.Series(name, [None if v is None else [_text(part) for part in v] for v in lists], pl.List(pl.String))


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value.strip() if isinstance(value, str) else None
    return text or None

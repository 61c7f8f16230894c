"""Filters of a request on item attributes, as a mask over the catalogue's rows."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from recsys.data.catalogue import Catalogue
from recsys.errors import RequestError
from recsys.types import Bools, RowMask

MAX_CACHED: Final = 256
"""Masks kept a catalogue; one of a million rows is 1 MB."""

_FIELD: Final = "filters.attribute"


@dataclass(frozen=True, slots=True)
class AttributeFilter:
    """What an item's attribute must be; an item without a value never passes.

    Attributes:
        attribute: column of the catalogue.
        any_of: the value, or for a list an element of it, is one of these; compared as text for
            strings, by value for numbers, "true" and "false" for booleans. Empty = anything.
        min, max: inclusive bounds of a number; None = none.
    """

    attribute: str
    any_of: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None


def row_mask(catalogue: Catalogue, filters: Sequence[AttributeFilter]) -> RowMask | None:
    """The rows that pass every filter; None when there is no filter.

    Raises:
        RequestError: for an attribute that the catalogue lacks, a bound on what is no number, an
            `any_of` value that the column cannot hold, or a filter that asks nothing.
    """
    if not filters:
        return None
    masks = _masks_of(catalogue)
    allowed = masks.of(filters[0])
    for extra in filters[1:]:
        allowed = allowed & masks.of(extra)
    return RowMask(allowed)


class _Masks:
    """Masks of one catalogue by (attribute, value) and by (attribute, bounds), the least used forgotten."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._frame = catalogue.frame
        self._names = catalogue.attribute_names
        self._kept: OrderedDict[tuple[Any, ...], Bools] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, wanted: AttributeFilter) -> Bools:
        """(N,) which rows pass; read-only, since it is shared."""
        column = self._column(wanted)
        parts: list[Bools] = []
        if wanted.any_of:
            parts.append(self._any(column, wanted))
        if wanted.min is not None or wanted.max is not None:
            parts.append(self._between(column, wanted))
        return parts[0] if len(parts) == 1 else parts[0] & parts[1]

    def _column(self, wanted: AttributeFilter) -> pl.Series:
        if wanted.attribute not in self._names:
            known = ", ".join(self._names) or "none"
            raise RequestError(_FIELD, wanted.attribute, f"there is no such attribute; there are: {known}")
        if not wanted.any_of and wanted.min is None and wanted.max is None:
            raise RequestError(_FIELD, wanted.attribute, "must come with any_of, min or max")
        return self._frame[wanted.attribute]

    def _any(self, column: pl.Series, wanted: AttributeFilter) -> Bools:
        """Each value has a mask of its own, so that a few popular values serve every combination."""
        values = {_parse(text, _element_type(column), wanted.attribute) for text in wanted.any_of}
        masks = [self._cached((wanted.attribute, value), partial(_holds, column, value)) for value in values]
        return masks[0] if len(masks) == 1 else np.logical_or.reduce(masks)

    def _between(self, column: pl.Series, wanted: AttributeFilter) -> Bools:
        if not column.dtype.is_numeric():
            raise RequestError(_FIELD, wanted.attribute, f"must be a number for min and max; it is {column.dtype}")
        for field, bound in (("min", wanted.min), ("max", wanted.max)):
            if bound is not None and math.isnan(bound):
                raise RequestError(f"filters.{field}", bound, "must be a number")
        key = (wanted.attribute, wanted.min, wanted.max)
        return self._cached(key, partial(_bounded, column, wanted.min, wanted.max))

    def _cached(self, key: tuple[Any, ...], make: Callable[[], Bools]) -> Bools:
        with self._lock:
            mask = self._kept.get(key)
            if mask is not None:
                self._kept.move_to_end(key)
                return mask
        mask = make()
        mask.setflags(write=False)
        with self._lock:
            self._kept[key] = mask
            if len(self._kept) > MAX_CACHED:
                self._kept.popitem(last=False)
        return mask


_caches: WeakKeyDictionary[Catalogue, _Masks] = WeakKeyDictionary()
_caches_lock = threading.Lock()


def _masks_of(catalogue: Catalogue) -> _Masks:
    """The masks that live as long as their catalogue does."""
    with _caches_lock:
        if catalogue not in _caches:
            _caches[catalogue] = _Masks(catalogue)
        return _caches[catalogue]


def _element_type(column: pl.Series) -> pl.DataType:
    inner: pl.DataType = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype  # type: ignore[assignment]
    return inner


def _parse(text: str, kind: pl.DataType, attribute: str) -> str | bool | int | float:
    """A value of the request as the column's type."""
    if kind == pl.Boolean:
        if text.lower() not in ("true", "false"):
            raise RequestError("filters.any_of", text, f'must be "true" or "false" for {attribute}')
        return text.lower() == "true"
    if kind.is_numeric():
        try:
            return int(text) if kind.is_integer() else float(text)
        except ValueError:
            raise RequestError("filters.any_of", text, f"must be a number for {attribute} ({kind})") from None
    return text


def _holds(column: pl.Series, value: str | bool | int | float) -> Bools:
    """Which rows have the value, or have it in their list."""
    if isinstance(column.dtype, pl.List):
        elements = _comparable(column.explode(empty_as_null=True))
        lengths = column.list.len().fill_null(0).to_numpy()
        row = np.repeat(np.arange(len(column)), np.maximum(lengths, 1))
        mask = np.zeros(len(column), np.bool_)
        mask[row[_true(elements == value)]] = True
        return mask
    return _true(_comparable(column) == value)


def _comparable(column: pl.Series) -> pl.Series:
    """Booleans and numbers as they are, anything else (categories, dates) as the text the wire shows."""
    return column if column.dtype.is_numeric() or column.dtype == pl.Boolean else column.cast(pl.String)


def _bounded(column: pl.Series, low: float | None, high: float | None) -> Bools:
    """Which rows lie between the bounds; missing values and NaN do not."""
    values = column.cast(pl.Float64)
    inside = values.is_not_null() & values.is_not_nan().fill_null(False)
    if low is not None:
        inside &= values >= low
    if high is not None:
        inside &= values <= high
    return _true(inside)


def _true(column: pl.Series) -> Bools:
    mask: Bools = column.fill_null(False).to_numpy()
    return np.array(mask, np.bool_)

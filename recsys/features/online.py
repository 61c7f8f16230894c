"""The NumPy encoder: users and candidates of requests to arrays of codes, for serving and batch inference."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import isnan
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import polars as pl

from recsys.columns import USER_ID
from recsys.features.buckets import bucket_codes
from recsys.features.cross import CROSS_ENCODINGS, CrossEncoding
from recsys.features.definition import HISTORY, HISTORY_AGE, AttributeFeature, ListFeature, NumericFeature
from recsys.features.feature_set import FeatureSet
from recsys.features.offline import encode_items
from recsys.features.padding import ages, newest
from recsys.features.values import to_number
from recsys.features.vocabulary import FIRST, MISSING, UNSEEN, Codes, Vocabulary
from recsys.types import Candidates, Ids, Users

Encode: TypeAlias = Callable[[Sequence[Any]], Codes]


class CatalogueRows(Protocol):
    """What the encoder reads of a catalogue."""

    @property
    def ids(self) -> Ids:
        """(N,) item ids by row."""
        ...

    @property
    def frame(self) -> pl.DataFrame:
        """`item_id` and attributes by row."""
        ...


class OnlineEncoder:
    """Encodes requests against one feature set and one catalogue; immutable, safe across threads.

    Attributes:
        item_index: (N,) int32 item-id code of every catalogue row, 1 = unseen in training. Indexes
            the history table and the item table alike.
        items: item features of every catalogue row, each (N,) or (N, n) int32.
    """

    def __init__(self, features: FeatureSet, catalogue: CatalogueRows) -> None:
        self.features: Final = features
        self.item_index: Final = features.items.codes_of_ids(catalogue.ids)
        self.items: Final = encode_items(features, catalogue.frame)
        self._user_ids = features.vocabularies.get(USER_ID) if features.definition.id_of("user") else None
        self._columns = tuple(
            (f.name, f.column, _encoder_of(features, f)) for f in features.definition.attributes("user")
        )
        self._length = features.history.length if features.history else 0
        self._ages = np.arange(self._length, 0, -1, dtype=np.int32)
        self._cross: tuple[tuple[str, CrossEncoding], ...] = tuple(
            (f.name, CROSS_ENCODINGS[f.kind](f, catalogue.frame)) for f in features.definition.cross
        )

    def encode_users(self, users: Users, *, trim: bool = False) -> dict[str, Codes]:
        """Codes of B users: (B,) a scalar feature, (B, n) a list, and the history with its age.

        An attribute that a profile lacks is missing. `history` and `history_age` are (B, L),
        left-padded with 0, where L is the length of the feature.

        Args:
            users: the batch.
            trim: shrink L to the longest history of the batch, at least 1.
        """
        encoded: dict[str, Codes] = {}
        if self._user_ids is not None:
            encoded[USER_ID] = np.where(users.known, self._user_ids.codes_of_ids(users.ids), np.int32(MISSING))
        absent: list[Any] = [None] * len(users)
        for name, column, encode in self._columns:
            encoded[name] = encode(users.attributes.get(column, absent))
        if self._length:
            encoded[HISTORY], encoded[HISTORY_AGE] = self._history(users, trim)
        return encoded

    def encode_cross(self, users: Users, candidates: Candidates) -> dict[str, Codes]:
        """Codes of T (user, candidate) pairs, each (T,), aligned with `candidates.rows`."""
        offsets = candidates.offsets
        encoded = {}
        for name, encoding in self._cross:
            values = [
                encoding.online(users.history[b], candidates.rows[offsets[b] : offsets[b + 1]])
                for b in range(len(candidates))
            ]
            flat = np.concatenate(values) if values else np.empty(0)
            encoded[name] = bucket_codes(flat, self.features.edges[name])
        return encoded

    def _history(self, users: Users, trim: bool) -> tuple[Codes, Codes]:
        if len(users) == 1:
            return self._one_history(users, trim)
        rows = users.history
        longest = int(rows.lengths.max(initial=1))
        width = min(self._length, longest) if trim else self._length
        kept, there = newest(rows.values, rows.offsets, width)
        history = np.zeros(there.shape, np.int32)
        history[there] = self.item_index[kept]
        return history, ages(there)

    def _one_history(self, users: Users, trim: bool) -> tuple[Codes, Codes]:
        """The case of a request, without the work that a batch needs."""
        rows = users.history.values[-self._length :]
        count = len(rows)
        width = max(count, 1) if trim else self._length
        history, age = np.zeros((1, width), np.int32), np.zeros((1, width), np.int32)
        if count:
            history[0, -count:] = self.item_index[rows]
            age[0, -count:] = self._ages[-count:]
        return history, age


def _encoder_of(features: FeatureSet, feature: AttributeFeature) -> Encode:
    """The function that encodes a column of raw values."""
    if isinstance(feature, NumericFeature):
        return _numeric(list(features.edges[feature.name]))
    vocabulary = features.vocabularies[feature.name]
    return _list(vocabulary, feature.length) if isinstance(feature, ListFeature) else _categorical(vocabulary)


def _code_of(vocabulary: Vocabulary) -> Callable[[Any], int]:
    """`Vocabulary.code_of` with a short way for values that come in canonical form.

    Python's own equality makes 1, 1.0 and True the same key, as the canonical form does.
    """
    known, any_form = vocabulary.lookup.get, vocabulary.code_of

    def code_of(value: Any) -> int:
        try:
            code = known(value)
        except TypeError:
            return UNSEEN
        return any_form(value) if code is None else code

    return code_of


def _categorical(vocabulary: Vocabulary) -> Encode:
    code_of = _code_of(vocabulary)

    def encode(values: Sequence[Any]) -> Codes:
        return np.array([code_of(value) for value in values], np.int32)

    return encode


def _numeric(edges: list[float]) -> Encode:
    def code_of(value: Any) -> int:
        number = to_number(value)
        return MISSING if isnan(number) else bisect_left(edges, number) + FIRST

    def encode(values: Sequence[Any]) -> Codes:
        return np.array([code_of(value) for value in values], np.int32)

    return encode


def _list(vocabulary: Vocabulary, length: int) -> Encode:
    code_of = _code_of(vocabulary)

    def encode(values: Sequence[Any]) -> Codes:
        codes = np.zeros((len(values), length), np.int32)
        for b, value in enumerate(values):
            head = [code_of(element) for element in _elements(value)[:length]]
            codes[b, : len(head)] = head
        return codes

    return encode


def _elements(value: Any) -> Sequence[Any]:
    """The values of a list attribute; a scalar is a list of one."""
    if value is None:
        return ()
    return list(value) if isinstance(value, list | tuple | np.ndarray | pl.Series) else (value,)

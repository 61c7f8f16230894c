"""Approximate search: a FAISS index that proposes and never scores, and exact search where it would answer badly."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from recsys.errors import BundleError
from recsys.index.engine import Members, bounds_of, distinct, longest, union, with_margin
from recsys.index.exact import ExactSearch
from recsys.types import Bools, Floats, Offsets, RaggedRows, Rows

FEW_ALLOWED = 20_000
"""Up to so many allowed rows exact search among them is faster than an approximate one, and misses nothing."""
TUNED_FOR = 100
"""The number of answers that the effort is tuned for."""
_OVERFETCH = 1_000
"""Up to so many exclusions are fetched and dropped; beyond, a bitmap keeps them out of the heap."""
_LIKELY = 64
"""Exclusions that a first search allows for."""
_BLOCK = 65_536
"""Rows that are handed to FAISS at a time, since each block is copied."""
_NOTHING = np.empty(0, np.int32)
_Writer: Any = getattr(faiss, "PyCallbackIOWriter")  # noqa: B009 (FAISS's stubs lack it)


class ApproximateSearch(ABC):
    """Engine over a FAISS index that holds row r of the catalogue under id r.

    Searches that it answers badly go to exact search: few allowed rows, or fewer answers than asked for
    after the greatest effort.

    Args:
        index: the FAISS index.
        exact: exact search over the same vectors.
        scale: what the vectors were multiplied by before FAISS got them.

    Attributes:
        effort: what a search for 100 rows takes: lists read, or nodes held.
        growth: a search for c times as many rows, or under a filter that leaves one row in c, takes c ** growth times
            the effort.
        candidates: rows that are proposed, and so scored exactly, for each row asked for.
    """

    def __init__(self, index: Any, exact: ExactSearch, scale: float) -> None:
        self.faiss_index = index
        self.exact = exact
        self.scale = scale
        self.effort = 1
        self.growth = 1.0
        self.candidates = 1.0
        self._kept: dict[int, Any] = {}
        self._members = Members(len(exact.vectors))

    @property
    @abstractmethod
    def most(self) -> int:
        """The effort beyond which there is none."""

    @abstractmethod
    def least(self, k: int) -> int:
        """The effort below which a search for k rows takes no less time."""

    @abstractmethod
    def _parameters(self, effort: int, selector: Any = None) -> Any:
        """FAISS's search parameters for an effort, and for the rows that a selector lets pass."""

    @abstractmethod
    def _exact_is_faster(self, k: int, eligible: int, filtered: bool, effort: int) -> bool:
        """Whether exact search among the eligible rows takes less time, and misses nothing besides."""

    @abstractmethod
    def settings(self) -> dict[str, int]:
        """What a report says of the index and of the effort: keys of `IndexReport`."""

    @abstractmethod
    def laid(self, queries: Floats) -> Floats:
        """(B, e) queries in the space that FAISS searches."""

    def propose(
        self,
        queries: Floats,
        k: int,
        allowed: Bools | None,
        excluded: RaggedRows | None,
        groups: Offsets | None = None,
    ) -> list[Rows]:
        """See `Engine.propose`. Takes more effort for large k, for strict filters, and where k rows were not found.

        Few of a user's excluded rows are among the best for that user, and FAISS's time grows with what it is asked
        for: the search of the whole batch allows for `_LIKELY` of them, and queries for which that was too few search
        again by themselves.
        """
        total = len(self.exact.vectors)
        count = total if allowed is None else int(np.count_nonzero(allowed))
        depth = max(1.0, k / TUNED_FOR) * total / max(count, 1)
        effort = min(math.ceil(self.effort * depth**self.growth), self.most)
        if k >= count or self._exact_is_faster(k, count, allowed is not None, effort):
            return self.exact.propose(queries, k, allowed, excluded, groups)
        laid = self.laid(queries)
        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        hidden = longest(excluded)
        found = None
        if bits is None and hidden <= _OVERFETCH:
            found = self._search(laid, self.fetched(k) + min(hidden, _LIKELY), self._reading(effort))
        proposals = []
        for g, (start, stop) in enumerate(bounds_of(queries, groups)):
            out = _NOTHING if excluded is None else excluded[g]
            lists, short = [], list(range(stop - start))
            if found is not None:
                rows, short = self._eligible(found[start:stop], k, out)
                lists.append(rows)
            for b in short:
                one = slice(start + b, start + b + 1)
                lists.append(self._alone(queries[one], laid[one], k, allowed, bits, out, effort))
            proposals.append(union(lists))
        return proposals

    def fetched(self, k: int) -> int:
        """Rows to have FAISS find for k answers: more, as half precision or a code may put them out of order."""
        return with_margin(k) if self.candidates == 1 else math.ceil(max(k, TUNED_FOR) * self.candidates)

    def device_index(self) -> tuple[Any, int]:
        """See `ProcessorEngine.device_index`."""
        return self.faiss_index, self.effort

    def _eligible(self, found: Rows, k: int, excluded: Rows) -> tuple[Rows, list[int]]:
        """Rows of (K, F) found for the queries of a group, less those excluded; and queries that may lack some."""
        eligible = ~self._members.among(found, excluded)
        wanted = self.fetched(k)
        short = np.count_nonzero(eligible, axis=1) < wanted
        if (found[:, -1] < 0).any():  # FAISS finds no more for a query, however much it is asked for
            eligible &= found >= 0
            short = np.count_nonzero(eligible, axis=1) < np.where(found[:, -1] < 0, k, wanted)
        return distinct(found[eligible]), np.flatnonzero(short).tolist()

    def _alone(
        self, query: Floats, laid: Floats, k: int, allowed: Bools | None, bits: Any, excluded: Rows, effort: int
    ) -> Rows:
        """Eligible rows for one (1, d) query, with as much effort as it takes to find k."""
        if bits is None and len(excluded) <= _OVERFETCH:
            found = _found(self._search(laid, self.fetched(k) + len(excluded), self._reading(effort))[0])
            rows = found[~self._members.among(found, excluded)]
        else:
            rows = self._select(laid, k, bits, excluded, effort)
        if len(rows) >= k:
            return rows
        more = self._with_more_effort(laid, k, bits, excluded, effort)
        return self.exact.propose(query, k, allowed, RaggedRows.of([excluded]))[0] if more is None else more

    def _select(self, query: Floats, k: int, bits: Any, excluded: Rows, effort: int) -> Rows:
        """One query, where FAISS skips what the bitmap does not allow."""
        bits = np.full((self.faiss_index.ntotal + 7) // 8, 255, np.uint8) if bits is None else bits.copy()
        np.bitwise_and.at(bits, excluded >> 3, ~(np.uint8(1) << (excluded & 7).astype(np.uint8)))
        selector = faiss.IDSelectorBitmap(self.faiss_index.ntotal, faiss.swig_ptr(bits))
        return _found(self._search(query, self.fetched(k), self._parameters(effort, selector))[0])

    def _search(self, queries: Floats, k: int, parameters: Any) -> Rows:
        """(B, k) rows, -1 where FAISS found too few, the last of each query."""
        found: Rows = self.faiss_index.search(queries, k, params=parameters)[1].astype(np.int32)
        return found

    def _with_more_effort(self, query: Floats, k: int, bits: Any, excluded: Rows, effort: int) -> Rows | None:
        """Four times the effort until k rows are found; None when not even the most but one would do."""
        while (effort := effort * 4) < self.most:
            rows = self._select(query, k, bits, excluded, effort)
            if len(rows) >= k:
                return rows
        return None

    def _reading(self, effort: int) -> Any:
        """Search parameters for an effort; kept, since making them costs more than a short search."""
        if effort not in self._kept:
            self._kept[effort] = self._parameters(effort)
        return self._kept[effort]

    def reading(self, effort: int, candidates: float) -> Self:
        """The same engine at another effort, at most all, and with other candidates."""
        other = copy.copy(self)
        other.effort, other.candidates = min(effort, self.most), candidates
        return other

    def save(self, path: Path) -> None:
        """Writes the FAISS index to `path`."""
        faiss.write_index(self.faiss_index, str(path))

    def size(self) -> int:
        """Size of the FAISS index as saved, with the tables that opening it adds."""
        return _written_bytes(self.faiss_index)


def scale_for(longest: float) -> float:
    """The power of two that brings the longest vector to a length in (1/2, 1]: half precision holds all then."""
    return 1.0 if longest <= 0 else 2.0 ** -math.ceil(math.log2(longest))


def blocks(count: int) -> list[slice]:
    """Slices of at most `_BLOCK` of `count` rows."""
    return [slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]


def read_index(path: Path, flags: int) -> Any:
    """A FAISS index from a file, mapped into memory as far as the flags say and FAISS can.

    Raises:
        BundleError: when FAISS cannot read the file.
    """
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise BundleError(f"{path}: FAISS cannot read it; build the index again ({error})") from None


def _written_bytes(index: Any) -> int:
    """Bytes that FAISS would write, counted and let go."""
    counted = 0

    def count(content: bytes) -> int:
        nonlocal counted
        counted += len(content)
        return len(content)

    faiss.write_index(index, _Writer(count))
    return counted


def _found(rows: Rows) -> Rows:
    """FAISS's answer to a query ascending, without the -1 where it found too few."""
    rows = np.sort(rows)
    return rows if not len(rows) or rows[0] >= 0 else rows[rows.searchsorted(0) :]

"""Retrieval by a score that is the same for everybody: popularity, recent popularity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DataError
from recsys.features.online import OnlineEncoder
from recsys.files import replacing
from recsys.types import Bools, Candidates, Deadline, Floats, RowMask, Rows, Users, offsets_of

SCORES: Final = "scores.npy"


class StaticChannel:
    """Channel that gives everybody the best rows of one list, less what each may not have.

    Args:
        name: what requests call it.
        scores: (N,) float32, finite, one a catalogue row.
    """

    def __init__(self, name: str, scores: Floats) -> None:
        if scores.ndim != 1 or not np.isfinite(scores).all():
            raise DataError(f"{name}: one finite score a catalogue row is needed, not {scores.dtype} {scores.shape}")
        self._name = name
        self._order = np.argsort(-scores, kind="stable").astype(np.int32)
        self._position = np.empty(len(scores), np.int32)
        self._position[self._order] = np.arange(len(scores), dtype=np.int32)
        self._ordered_scores = np.ascontiguousarray(scores[self._order], np.float32)

    @staticmethod
    def save(directory: Path, scores: Floats) -> None:
        """Writes the component's file into `directory`."""
        with replacing(directory / SCORES) as temporary, temporary.open("wb") as file:
            np.save(file, scores.astype(np.float32), allow_pickle=False)

    @classmethod
    def open(
        cls,
        name: str,
        directory: Path,
        options: Mapping[str, Any],
        catalogue: Catalogue,
        encoder: OnlineEncoder,
    ) -> StaticChannel:
        """Opens a component of type "static": `scores.npy`.

        Raises:
            BundleError: names the file that is missing, truncated or of another length than the catalogue.
        """
        path = directory / SCORES
        try:
            scores = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{path}: missing or truncated ({error})") from None
        if scores.shape != (len(catalogue),):
            raise BundleError(f"{path}: holds {scores.shape} scores, the catalogue {len(catalogue)} items")
        return cls(name, scores)

    @property
    def name(self) -> str:
        """What requests, reports and bundles call it."""
        return self._name

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        """See `Channel.recall`."""
        mask = None if allowed is None else allowed.allowed
        positions = [self._first(k, mask, users.excluded[b]) for b in range(len(users))]
        flat = np.concatenate(positions) if positions else np.empty(0, np.int64)
        return Candidates(
            self._order[flat],
            self._ordered_scores[flat],
            np.ones(len(flat), np.uint32),
            offsets_of([len(part) for part in positions]),
        )

    def _first(self, k: int, allowed: Bools | None, excluded: Rows) -> Any:
        """Positions in the order of the first k eligible rows, read in windows that double."""
        barred = self._position[excluded]
        start, stop = 0, k + len(excluded)
        found: list[NDArray[np.int64]] = []
        while start < len(self._order) and sum(map(len, found)) < k:
            eligible = np.ones(min(stop, len(self._order)) - start, np.bool_)
            eligible[barred[(barred >= start) & (barred < stop)] - start] = False
            if allowed is not None:
                eligible &= allowed[self._order[start:stop]]
            found.append(np.flatnonzero(eligible) + start)
            start, stop = stop, 3 * stop - 2 * start
        return np.concatenate(found)[:k] if found else np.empty(0, np.int64)

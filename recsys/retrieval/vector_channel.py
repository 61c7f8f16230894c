"""Retrieval by vectors: an ONNX user tower makes the query, the index finds the items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DeadlineError
from recsys.features.online import OnlineEncoder
from recsys.index.vector_index import VectorIndex
from recsys.retrieval.user_tower import TOWER, UserTower
from recsys.types import Candidates, Deadline, Floats, RowMask, Rows, Users

INDEX: Final = "index"
_OUTPUT: Final = "user_vector"


class VectorChannel:
    """Channel over a user tower and a vector index; a score is what the index's metric makes of two vectors.

    Args:
        name: what requests call it.
        tower: makes one vector a user.
        index: over the catalogue's rows.

    Raises:
        BundleError: when the tower makes several vectors a user.
    """

    def __init__(self, name: str, tower: UserTower, index: VectorIndex) -> None:
        if len(tower.shape) != 1:
            raise BundleError(f"{name}: {TOWER} makes {tower.shape} numbers a user; a vector channel takes one vector")
        self._name = name
        self._tower = tower
        self._index = index

    @classmethod
    def open(
        cls,
        name: str,
        directory: Path,
        options: Mapping[str, Any],
        catalogue: Catalogue,
        encoder: OnlineEncoder,
    ) -> VectorChannel:
        """Opens a component of type "vector": `user_tower.onnx`, `history_vectors.npy`, `index/`.

        Options: those of `open_index`.

        Raises:
            BundleError: names the file that is missing, unreadable or does not fit the others.
        """
        index = open_index(directory, options, catalogue)
        return cls(name, UserTower.open(name, directory, _OUTPUT, index, encoder), index)

    @property
    def name(self) -> str:
        """What requests, reports and bundles call it."""
        return self._name

    @property
    def tower(self) -> UserTower:
        """What makes the users' vectors."""
        return self._tower

    @property
    def index(self) -> VectorIndex:
        """The item vectors."""
        return self._index

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        """See `Channel.recall`."""
        queries = self.user_vectors(users)
        if deadline is not None and deadline.passed:
            raise DeadlineError(f"{self._name}: no time left after the user tower")
        excluded = users.excluded if len(users.excluded.values) else None
        return Candidates.from_matrix(*self._index.search_as_queries(queries, k, allowed, excluded))

    def user_vectors(self, users: Users) -> Floats:
        """(B, d) vectors of the users, as the index compares them (of length 1 for cosine)."""
        return self._tower.queries(users)

    def row_scores(self, rows: Rows, vector: Floats) -> Floats:
        """(M,) scores of catalogue rows for one user's (d,) vector: the very bits that `recall` gives them."""
        return self._index.scores(rows, vector)

    def item_vectors(self, rows: Rows) -> Floats:
        """(M, d) vectors of catalogue rows, as the index holds them."""
        return self._index.vectors(rows)


def open_index(directory: Path, options: Mapping[str, Any], catalogue: Catalogue) -> VectorIndex:
    """Opens `index/` of a component over the catalogue's rows.

    Args:
        directory: the component's.
        options: `device` ("auto", "cpu", "cuda") of the index, `dim` and `metric` as a check.
        catalogue: of the bundle.

    Raises:
        BundleError: names the file that is missing, unreadable or not what the options and the catalogue say.
    """
    index = VectorIndex.open(directory / INDEX, options.get("device", "auto"))
    if len(index) != len(catalogue):
        raise BundleError(f"{directory / INDEX}: holds {len(index)} vectors, the catalogue {len(catalogue)} items")
    for option, found in (("dim", index.dim), ("metric", index.report.metric)):
        if options.get(option, found) != found:
            raise BundleError(f"{directory / INDEX}: its {option} is {found}, component.json says {options[option]}")
    return index

"""Retrieval down a tree of items: an ONNX user tower, attention over the history, and a beam search."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from recsys.data.catalogue import Catalogue
from recsys.errors import BundleError, DeadlineError
from recsys.features.online import OnlineEncoder
from recsys.index.item_tree import ItemTree
from recsys.index.node_attention import NodeAttention
from recsys.index.tree_search import TreeSearch
from recsys.retrieval.user_tower import TOWER, UserTower
from recsys.types import Candidates, Deadline, Floats, RowMask, Rows, Users, offsets_of

TREE: Final = "tree"
WIDEST_BEAM: Final = 10_000
"""Nodes kept a level at most: a search reads memory in proportion, and ten thousand are exact for most catalogues."""

_OUTPUT: Final = "user_vector"
_TO_ANSWER: Final = 0.002
"""Seconds before a deadline at which a search ends, so that what it found still reaches the caller."""


class TreeChannel:
    """Channel over a user tower, the nodes of a tree and a beam; a score is that of the leaf.

    Args:
        name: what requests call it.
        tower: makes one vector a user.
        attention: scores nodes for a user's vector and history.
        beam: nodes kept a level; more where more rows are asked for.

    Raises:
        BundleError: when the tower makes several vectors a user, or the beam is out of its bounds.
    """

    def __init__(self, name: str, tower: UserTower, attention: NodeAttention, beam: int) -> None:
        if len(tower.shape) != 1:
            raise BundleError(f"{name}: {TOWER} makes {tower.shape} numbers a user; a tree channel takes one vector")
        if not 1 <= beam <= WIDEST_BEAM:
            raise BundleError(f"{name}: beam = {beam} in component.json must be from 1 to {WIDEST_BEAM:,}")
        self._name = name
        self._tower = tower
        self._attention = attention
        self._search = TreeSearch(attention.tree)
        self._beam = beam

    @classmethod
    def open(
        cls,
        name: str,
        directory: Path,
        options: Mapping[str, Any],
        catalogue: Catalogue,
        encoder: OnlineEncoder,
    ) -> TreeChannel:
        """Opens a component of type "tree": `user_tower.onnx`, `history_vectors.npy`, `tree/`.

        Options: `beam`; `dim` as a check.

        Raises:
            BundleError: names the file that is missing, unreadable or does not fit the others, or the item that is in
                the catalogue but not in the tree.
        """
        tree = ItemTree.open(directory / TREE)
        tree.check_holds(catalogue.ids)
        attention = NodeAttention.open(directory / TREE, tree)
        if options.get("dim", attention.dim) != attention.dim:
            raise BundleError(f"{directory / TREE}: its dim is {attention.dim}, component.json says {options['dim']}")
        beam = options.get("beam")
        if not isinstance(beam, int):
            raise BundleError(f"{name}: beam = {beam!r} in component.json must be a whole number")
        return cls(name, UserTower.open(name, directory, _OUTPUT, attention, encoder), attention, beam)

    @property
    def name(self) -> str:
        """What requests, reports and bundles call it."""
        return self._name

    @property
    def tower(self) -> UserTower:
        """What makes the users' vectors."""
        return self._tower

    @property
    def attention(self) -> NodeAttention:
        """What scores nodes."""
        return self._attention

    @property
    def beam(self) -> int:
        """Nodes kept a level."""
        return self._beam

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        """See `Channel.recall`; a search that time runs out for gives the best it had reached, not `complete`."""
        vectors = self._tower.queries(users)
        if deadline is not None:
            deadline = Deadline(deadline.at - _TO_ANSWER)
            if deadline.passed:
                raise DeadlineError(f"{self._name}: no time left after the user tower")
        alone = len(users) == 1  # a server, which has one thread of BLAS a process anyway
        with nullcontext() if alone else threadpool_limits(1, "blas"):  # shared out, small products take longer
            found = [
                self._search.search(
                    self._attention.user(vectors[user], users.history[user]),
                    k,
                    self._beam,
                    allowed,
                    users.excluded[user],
                    deadline,
                )
                for user in range(len(users))
            ]
        if not found:
            return Candidates.empty(0)
        rows: Rows = np.concatenate([one.rows for one in found])
        scores: Floats = np.concatenate([one.scores for one in found])
        return Candidates(
            rows,
            scores,
            np.ones(len(rows), np.uint32),
            offsets_of([len(one.rows) for one in found]),
            complete=all(one.stopped_at is None for one in found),
        )

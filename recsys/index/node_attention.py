"""NodeAttention: scores nodes of a tree by a user's vector and by attention of the node over the user's behaviours."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from recsys.config import Config, parse_config
from recsys.errors import BundleError, ConfigError, DataError
from recsys.files import write_text
from recsys.index.arrays import map_array, save_array
from recsys.index.dots import lengths
from recsys.index.item_tree import ItemTree, Nodes
from recsys.types import Floats, Rows

_CONFIG: Final = "attention.json"
_NODES: Final = "node_vectors.npy"
_KEYS: Final = "keys.npy"
_VALUES: Final = "values.npy"
_AGES: Final = "age_weight.npy"
_BLOCK: Final = 4096
"""Nodes scored at once; a beam has fewer, brute force stays in the cache."""
STEEPEST: Final = 40.0
"""As in training, which takes shares below 1e-20, e^-46, for none: 40 leaves ages six nats to count less by."""


class AttentionConfig(Config):
    """What the arrays do not say.

    Attributes:
        cap: attention logits stay between -cap and cap.
    """

    cap: float


@dataclass(frozen=True, slots=True, eq=False)
class Behaviours:
    """What nodes of one level are scored with: the B nodes there that are above a user's behaviours, and the user.

    Attributes:
        weights: (2B + 1, d') what a node is multiplied with: K h / cap of each of the B, V h of each, e_u.
        factors: (B,) the summed exp(w) of the behaviours below each, up to a factor.
    """

    weights: Floats
    factors: Floats


class NodeAttention:
    """score(u, n) = e_u·n + Σ_i a_i (n·V h_i), a = softmax_i(cap·tanh(n·K h_i / cap) + w[age_i]).

    h_i is the vector of the node above behaviour i at the level of n (Zhu et al. 2019, arXiv 1902.07565, section 3.3),
    i over the newest behaviours, age 1 the newest. Without behaviours the sum is 0. Behaviours below one node are one
    behaviour at its level, with the sum of their exp(w). K h and V h of all levels are made once for a user; a level is
    then one gather of node vectors and one product with [K h | V h | e_u].

    Args:
        tree: the items.
        nodes: (2S-1, d') float32 vectors, those of the leaves in the order of slots; may be memory-mapped.
        keys: (d, d) K; d' = d, or d + 1 where a node's last entry is a bias, which attention leaves out.
        values: (d, d) V.
        age_weight: (A,) w by age, that of the newest first. Behaviours older than A are not looked at.
        cap: bound of the attention logits.

    Raises:
        DataError: for shapes that do not fit, numbers that are not finite, or a cap out of its bounds.
    """

    def __init__(
        self, tree: ItemTree, nodes: Floats, keys: Floats, values: Floats, age_weight: Floats, cap: float
    ) -> None:
        _check(tree, nodes, keys, values, age_weight, cap)
        self.tree = tree
        self.nodes = nodes
        self.keys = keys
        self.values = values
        self.age_weight = age_weight
        self.cap = float(cap)
        # n·K h = n·(h Kᵀ); the division by the cap is made here, once
        padding = (0, nodes.shape[1] - len(keys))
        sides = [np.pad(side, (padding, padding)) for side in (keys.T / np.float32(cap), values.T)]
        self._sides = np.concatenate(sides, axis=1).astype(np.float32)
        self._room = _Room(nodes.shape[1], 2 * self.attended + 1)

    @property
    def attended(self) -> int:
        """Behaviours looked at, A."""
        return len(self.age_weight)

    @property
    def dim(self) -> int:
        """Columns of a user's vector, d'."""
        return int(self.nodes.shape[1])

    def as_queries(self, vectors: Floats) -> Floats:
        """(Q, d') users' vectors as nodes are multiplied with, which is as they are.

        Raises:
            DataError: for a vector that is not finite.
        """
        lengths(vectors, "user vector")
        return vectors

    def user(self, vector: Floats, history: Rows) -> UserAttention:
        """A scorer for one user.

        Args:
            vector: (d',) e_u; where nodes have a bias its last entry is 1.
            history: (L,) rows, oldest first; those not in the tree have an age and no say.

        Raises:
            DataError: for a vector of another length, or one that is not finite.
        """
        if vector.shape != (self.nodes.shape[1],) or not np.isfinite(vector).all():
            wanted = self.nodes.shape[1]
            raise DataError(f"a user's vector must be {wanted} finite numbers, not {vector.shape}: {vector[:8]}")
        newest = history[::-1][: self.attended]
        slots = self.tree.leaves[newest]
        there = np.flatnonzero(slots >= 0)
        there = there[np.argsort(slots[there])]  # so that those below one node are neighbours
        weight = self.age_weight[there]
        factor = np.exp(weight - weight.max(initial=-np.inf))  # of the greatest 1, so that they cannot all vanish
        return UserAttention(self, vector, newest[there], factor, self._room)

    def behaviours(self, vector: Floats, history: Rows, age_factor: Floats, first_level: int) -> list[Behaviours]:
        """A user's behaviours at each level from `first_level` on.

        Args:
            vector: (d',) e_u.
            history: (L,) rows in the tree; those of neighbouring leaves are best side by side.
            age_factor: (L,) exp of the age weights, up to a factor.
            first_level: the first of those wanted.
        """
        levels, dim = self.tree.depth + 1 - first_level, self.dim
        above = self.tree.ancestors(history, np.arange(first_level, self.tree.depth + 1)[:, None])
        differs = np.ones(above.shape, np.bool_)
        np.not_equal(above[:, 1:], above[:, :-1], out=differs[:, 1:])
        starts = np.flatnonzero(differs)
        factors = np.add.reduceat(np.tile(age_factor, levels), starts)
        sides = self.nodes.take(above.ravel()[starts], axis=0, mode="clip") @ self._sides
        user = vector[np.newaxis]
        ends = np.count_nonzero(differs, axis=1).cumsum().tolist()
        return [
            Behaviours(np.concatenate((sides[start:end, :dim], sides[start:end, dim:], user)), factors[start:end])
            for start, end in pairwise([0, *ends])
        ]

    def save(self, directory: Path) -> None:
        """Writes the arrays, `attention.json` last."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _CONFIG).unlink(missing_ok=True)
        parts = {_NODES: self.nodes, _KEYS: self.keys, _VALUES: self.values, _AGES: self.age_weight}
        for name, values in parts.items():
            save_array(directory / name, values)
        write_text(directory / _CONFIG, json.dumps(AttentionConfig(cap=self.cap).model_dump()) + "\n")

    @classmethod
    def open(cls, directory: Path, tree: ItemTree) -> NodeAttention:
        """Opens what was saved, node vectors memory-mapped.

        Raises:
            BundleError: names the file that is missing or damaged, or says what does not fit.
        """
        path = directory / _CONFIG
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
            config = parse_config(AttentionConfig, values, str(path))
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); train the tree again") from None
        except (ValueError, TypeError, ConfigError) as error:
            raise BundleError(f"{path}: not the description of a tree's attention ({error})") from None
        nodes, keys, sides = (map_array(directory / name, np.float32, 2) for name in (_NODES, _KEYS, _VALUES))
        ages = map_array(directory / _AGES, np.float32, 1)
        try:
            return cls(tree, nodes, np.array(keys), np.array(sides), np.array(ages), config.cap)
        except DataError as error:
            raise BundleError(f"{directory}: {error}") from None


class UserAttention:
    """The `NodeScorer` of one user; what lies below the first level asked for is prepared at that call.

    Args:
        attention: the model.
        vector: (d',) e_u.
        history: (L,) rows in the tree, in the order of their leaves.
        age_factor: (L,) exp of the age weights, up to a factor.
        room: to compute in.
    """

    def __init__(
        self, attention: NodeAttention, vector: Floats, history: Rows, age_factor: Floats, room: _Room
    ) -> None:
        self._attention = attention
        self._vector = vector
        self._history = history
        self._age_factor = age_factor
        self._room = room
        self._first_level = attention.tree.depth + 1
        self._behaviours: list[Behaviours] = []

    def scores(self, level: int, nodes: Nodes) -> Floats:
        """See `NodeScorer.scores`."""
        if level < self._first_level:
            self._prepare(level)
        behaviours = self._behaviours[level - self._first_level]
        scores = np.empty(len(nodes), np.float32)
        for start in range(0, len(nodes), _BLOCK):
            self._score(behaviours, nodes[start : start + _BLOCK], scores[start : start + _BLOCK])
        return scores

    def _prepare(self, level: int) -> None:
        self._behaviours = self._attention.behaviours(self._vector, self._history, self._age_factor, level)
        self._first_level = level

    def _score(self, behaviours: Behaviours, nodes: Nodes, scores: Floats) -> None:
        """Writes the scores of at most _BLOCK nodes."""
        gathered, products = self._room.of(len(nodes), len(behaviours.weights))
        self._attention.nodes.take(nodes, axis=0, out=gathered, mode="clip")  # any other mode copies `out`
        np.matmul(behaviours.weights, gathered.T, out=products)
        seen = len(behaviours.factors)
        if not seen:
            scores[:] = products[0]
            return
        logits, values = products[:seen], products[seen:-1]
        np.tanh(logits, out=logits)
        np.multiply(logits, np.float32(self._attention.cap), out=logits)
        np.exp(logits, out=logits)
        total = behaviours.factors @ logits
        np.multiply(logits, values, out=logits)
        np.divide(behaviours.factors @ logits, total, out=scores)
        scores += products[-1]


class _Room(threading.local):
    """Memory that the scoring of a level writes to, one a thread: no page of it is ever asked for twice.

    Args:
        dim: columns of node vectors.
        products: numbers made of each node, at most.
    """

    def __init__(self, dim: int, products: int) -> None:
        self._dim = dim
        self._products = products
        self._gathered = np.empty(0, np.float32)
        self._made = np.empty(0, np.float32)

    def of(self, nodes: int, products: int) -> tuple[Floats, Floats]:
        """(nodes, dim) and (products, nodes) to write to."""
        if nodes * self._dim > len(self._gathered):
            self._gathered = np.empty(nodes * self._dim, np.float32)
            self._made = np.empty(nodes * self._products, np.float32)
        gathered = self._gathered[: nodes * self._dim].reshape(nodes, self._dim)
        return gathered, self._made[: products * nodes].reshape(products, nodes)


def _check(tree: ItemTree, nodes: Floats, keys: Floats, values: Floats, age_weight: Floats, cap: float) -> None:
    dim = len(keys)
    if nodes.ndim != 2 or len(nodes) != tree.nodes or nodes.shape[1] not in (dim, dim + 1):
        raise DataError(
            f"node vectors are {nodes.shape}; a tree of {tree.nodes} nodes needs a row for each, {dim} wide"
        )
    if keys.shape != (dim, dim) or values.shape != (dim, dim) or age_weight.ndim != 1 or not len(age_weight):
        raise DataError(
            f"keys are {keys.shape}, values {values.shape}, age weights {age_weight.shape}: "
            "two square matrices of one size and a list are needed"
        )
    if not 0 < cap <= STEEPEST:
        raise DataError(f"the cap of attention logits is {cap}; it must be above 0 and at most {STEEPEST:g}")
    for name, array in (("node", nodes), ("key", keys), ("value", values), ("age weight", age_weight[:, None])):
        lengths(array, f"{name} vector")

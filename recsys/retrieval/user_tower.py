"""Users to query vectors: an ONNX user tower fed with encoded users and the vectors of their histories."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnxruntime
from xxhash import xxh3_128_digest

from recsys.errors import BundleError
from recsys.features.definition import HISTORY, HISTORY_AGE
from recsys.features.online import OnlineEncoder
from recsys.features.vocabulary import Codes
from recsys.retrieval.vector_cache import VectorCache
from recsys.types import Floats, Offsets, RaggedRows, Users

TOWER: Final = "user_tower.onnx"
HISTORY_VECTORS: Final = "history_vectors.npy"

_HISTORY_INPUT: Final = "history_vectors"
_PLACES: Final = 1_024
"""Places of histories, padding included, that a run of the tower takes: beyond it the work leaves the caches."""

_NUMBERS = itertools.count()
"""One for each tower opened in this process."""

_ENCODED_TYPES: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class Searched(Protocol):
    """What user vectors are made for: an index of item vectors, or a tree's nodes."""

    @property
    def dim(self) -> int:
        """Columns of a user's vector."""
        ...

    def as_queries(self, vectors: Floats) -> Floats:
        """(Q, d) vectors as they are compared with, and checked: of length 1 for cosine."""
        ...


class UserTower:
    """A session, what it is fed with, and what it makes queries for.

    A user without history and attributes has vectors too: what the model makes of an empty input.

    Args:
        name: of the channel, for errors.
        session: its inputs are user features by name, (B,) or (B, n), and `history_vectors` (B, L, d) where the
            model reads a history.
        output: name of the session's output, (B, d_out) or (B, K, d_out), d_out being the width of what is searched.
        history_vectors: (H, d) vector of every item-id code; None for a tower without history.
        searched: what the vectors are queries of.
        encoder: of the bundle.

    Attributes:
        shape: of one user's part of the output, (d_out,) or (K, d_out).
        cache: where the vectors of users who come alone are looked up and kept; None = nowhere.

    Raises:
        BundleError: when the tower asks for an input that the feature set does not make, or makes vectors of
            another width than are searched.
    """

    def __init__(
        self,
        name: str,
        session: onnxruntime.InferenceSession,
        output: str,
        history_vectors: Floats | None,
        searched: Searched,
        encoder: OnlineEncoder,
    ) -> None:
        self._name = name
        self._session = session
        self._output = output
        self._history_vectors = history_vectors
        self._searched = searched
        self._encoder = encoder
        self._reads_history = any(node.name == _HISTORY_INPUT for node in session.get_inputs())
        self._inputs = _encoded_inputs(name, session)
        self._number = next(_NUMBERS).to_bytes(8, "little")
        self.shape = self._check()
        self.cache: VectorCache | None = None
        # One request asks for the same users' vectors in retrieval and again in ranking: the latest are kept.
        # A tuple is replaced in one step, so threads at worst compute twice.
        self._latest: tuple[Users | None, Floats] = (None, np.empty((0, *self.shape), np.float32))

    @classmethod
    def open(cls, name: str, directory: Path, output: str, searched: Searched, encoder: OnlineEncoder) -> UserTower:
        """Opens `user_tower.onnx` and, where it is there, `history_vectors.npy`.

        Raises:
            BundleError: names the file that is missing, unreadable or does not fit the others.
        """
        session = open_session(directory / TOWER)
        return cls(name, session, output, _map_table(directory / HISTORY_VECTORS), searched, encoder)

    def queries(self, users: Users) -> Floats:
        """(B, *shape) vectors of the users, as the index compares them (of length 1 for cosine)."""
        latest, vectors = self._latest
        if latest is not users:
            vectors = self._made(users) if self.cache is None or len(users) != 1 else self._looked_up(users, self.cache)
            self._latest = users, vectors
        return vectors

    def feed(self, users: Users) -> dict[str, Any]:
        """What the session is given for these users."""
        return self._feed(self._encoder.encode_users(users, trim=True))

    def _looked_up(self, users: Users, cache: VectorCache) -> Floats:
        """(1, *shape) vectors of one user, made where the cache lacks them."""
        encoded = self._encoder.encode_users(users, trim=True)
        key = self._key(encoded)
        vectors = cache.get(self._name, key)
        if vectors is None:
            vectors = self._as_queries(self._output_of(encoded))
            cache.put(key, vectors)
        return vectors

    def _key(self, encoded: Mapping[str, Codes]) -> bytes:
        """A digest of this tower and all that it reads of one user."""
        names = [name for name, _ in self._inputs]
        read = [HISTORY, *names] if self._reads_history else names
        content = b"".join([self._number, *(encoded[name].tobytes() for name in read)])
        return xxh3_128_digest(content)

    def _made(self, users: Users) -> Floats:
        return self._as_queries(self._run(users))

    def _as_queries(self, raw: Floats) -> Floats:
        return self._searched.as_queries(raw.reshape(-1, self._searched.dim)).reshape(raw.shape)

    def _run(self, users: Users) -> Floats:
        """(B, *shape) what the tower makes of the users; those with histories about as long run together."""
        if not len(users):
            return np.empty((0, *self.shape), np.float32)
        encoded = self._encoder.encode_users(users, trim=True)
        if len(users) == 1 or HISTORY not in encoded:
            return self._output_of(encoded)
        width = encoded[HISTORY].shape[1]
        lengths = np.minimum(users.history.lengths, width)
        order = np.argsort(lengths, kind="stable")
        vectors = np.empty((len(users), *self.shape), np.float32)
        for start, stop in _runs(lengths[order]):
            chosen, longest = order[start:stop], max(int(lengths[order[stop - 1]]), 1)
            part = {name: codes[chosen] for name, codes in encoded.items()}
            for name in (HISTORY, HISTORY_AGE):
                part[name] = part[name][:, width - longest :]
            vectors[chosen] = self._output_of(part)
        return vectors

    def _output_of(self, encoded: Mapping[str, Codes]) -> Floats:
        vectors: Floats = self._session.run([self._output], self._feed(encoded))[0]
        return vectors

    def _feed(self, encoded: Mapping[str, Codes]) -> dict[str, Any]:
        feed: dict[str, Any] = {name: encoded[name].astype(kind, copy=False) for name, kind in self._inputs}
        if self._reads_history and self._history_vectors is not None:
            feed[_HISTORY_INPUT] = self._history_vectors.take(encoded[HISTORY], axis=0)
        return feed

    def _check(self) -> tuple[int, ...]:
        """Runs the tower on one user without anything, so that a misfit shows at opening and not in a request."""
        if self._reads_history and self._history_vectors is None:
            raise BundleError(f"{self._name}: {TOWER} reads {_HISTORY_INPUT}, but {HISTORY_VECTORS} is missing")
        try:
            vectors = self._run(_nobody())
        except KeyError as error:
            raise BundleError(f"{self._name}: {TOWER} reads {error}, which the feature set does not make") from None
        except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
            raise BundleError(f"{self._name}: {TOWER} does not run on an empty user: {error}") from error
        if vectors.ndim < 2 or len(vectors) != 1 or vectors.shape[-1] != self._searched.dim:
            raise BundleError(
                f"{self._name}: {TOWER} makes vectors {vectors.shape}; {self._searched.dim} columns are searched"
            )
        return vectors.shape[1:]


def _runs(lengths: Offsets) -> Iterator[tuple[int, int]]:
    """(start, stop) of users, sorted by the length of their history, whose padded histories fit _PLACES."""
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or (stop + 1 - start) * max(int(lengths[stop]), 1) > _PLACES:
            yield start, stop
            start = stop


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX model on one thread: a serving process has a core of its own.

    Raises:
        BundleError: when the file is missing or not an ONNX model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
        raise BundleError(f"{path}: cannot be opened as an ONNX model: {error}") from None


def _encoded_inputs(name: str, session: onnxruntime.InferenceSession) -> tuple[tuple[str, type[Any]], ...]:
    """(name, integer type) of the inputs that are codes."""
    inputs = []
    for node in session.get_inputs():
        if node.name == _HISTORY_INPUT:
            continue
        if node.type not in _ENCODED_TYPES:
            raise BundleError(f"{name}: input {node.name} of {TOWER} is {node.type}; features are int32 or int64")
        inputs.append((node.name, _ENCODED_TYPES[node.type]))
    return tuple(inputs)


def _map_table(path: Path) -> Floats | None:
    """The history table, memory-mapped; None when the component has none."""
    if not path.exists():
        return None
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: truncated or not an array ({error})") from None


def _nobody() -> Users:
    """One anonymous user without history or attributes."""
    return Users(np.zeros(1, np.int64), np.zeros(1, np.bool_), {}, RaggedRows.empty(1), RaggedRows.empty(1))

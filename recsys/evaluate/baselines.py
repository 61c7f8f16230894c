"""The yardsticks of every report: models without gradient descent, fitted on training events, tuned on validation.

Each scores whole histories against the whole catalogue. What a model must beat to have earned its training time is
not popularity but EASE over a recency-weighted history: order is most of the signal on many sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from recsys.data.interactions import Interactions
from recsys.errors import MissingPartError
from recsys.types import Floats, RaggedRows

Settings: TypeAlias = Mapping[str, float]
"""Hyper-parameters of one fit, by name."""

EASE_MAX_ITEMS: Final = 20_000
"""Above this the dense items × items matrix of EASE (float32) takes more than 1.6 GB and hours of one core."""
_DAY_MS: Final = 86_400_000
_BLOCK_CELLS: Final = 4_000_000


class ScoreModel(Protocol):
    """Scores every catalogue row for a batch of histories."""

    def scores(self, histories: RaggedRows) -> Floats:
        """(B, N) float32, higher is better; the caller masks what must not be recommended."""
        ...


@dataclass(frozen=True, eq=False)
class FitData:
    """What baselines are fitted on.

    Attributes:
        train: the training events; nothing later may enter.
        items: N, size of the catalogue.
        real_times: whether timestamps are times (else positions in a history).
        threads: for the parts that run threads of their own.
    """

    train: Interactions
    items: int
    real_times: bool
    threads: int = 1

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """(U, N) 1 where a user has the item."""
        return binary(RaggedRows(self.train.rows, self.train.offsets), self.items)

    @cached_property
    def popularity(self) -> NDArray[np.int64]:
        """(N,) training events of each item."""
        return np.bincount(self.train.rows, minlength=self.items)

    @cached_property
    def ease_weights(self) -> dict[float, Floats]:
        """EASE's weights by λ, kept because two baselines share them."""
        return {}


def binary(histories: RaggedRows, items: int) -> sparse.csr_matrix:
    """(B, N) 1 where a history holds the item, however often."""
    matrix = weighted(histories, np.ones(len(histories.values), np.float32), items)
    matrix.data[:] = 1.0
    return matrix


def weighted(histories: RaggedRows, weights: Floats, items: int) -> sparse.csr_matrix:
    """(B, N) sum of the weights of each item in a history."""
    parts = (weights, histories.values, histories.offsets)
    matrix = sparse.csr_matrix(parts, (len(histories), items), copy=True)  # what follows sorts in place
    matrix.sum_duplicates()
    return matrix


def ages(histories: RaggedRows) -> NDArray[np.int64]:
    """(T,) place of each event counted from the newest of its history, which is 0."""
    ends = np.repeat(histories.offsets[1:], histories.lengths)
    return ends - 1 - np.arange(len(histories.values))


@dataclass(frozen=True, eq=False)
class StaticScores:
    """One score a row, the same for everyone."""

    row_scores: Floats

    def scores(self, histories: RaggedRows) -> Floats:
        """(B, N) the same row of scores B times (a read-only view)."""
        return np.broadcast_to(self.row_scores, (len(histories), len(self.row_scores)))


@dataclass(frozen=True, eq=False)
class LinearScores:
    """History times a weight matrix: ItemKNN and EASE.

    Attributes:
        weights: (N, N) sparse or dense; row i holds what having item i adds to every other.
        decay: an item of age a counts decay^a; 1 ignores order.
    """

    weights: Any
    decay: float = 1.0

    def scores(self, histories: RaggedRows) -> Floats:
        """(B, N) float32."""
        items = self.weights.shape[0]
        if self.decay == 1.0:
            matrix = binary(histories, items)
        else:
            matrix = weighted(histories, (self.decay ** ages(histories)).astype(np.float32), items)
        product = matrix @ self.weights
        return product.toarray() if sparse.issparse(product) else np.asarray(product, np.float32)


@dataclass(frozen=True, eq=False)
class FactorScores:
    """Matrix factorisation that solves for the user's vector from the history it is given (no stored user).

    Attributes:
        model: a fitted `implicit` AlternatingLeastSquares.
    """

    model: Any

    def scores(self, histories: RaggedRows) -> Floats:
        """(B, N) float32."""
        matrix = binary(histories, len(self.model.item_factors))
        users: Floats = self.model.recalculate_user(np.arange(len(histories)), matrix)
        return np.asarray(users @ self.model.item_factors.T, np.float32)


def fit_popularity(data: FitData, settings: Settings) -> ScoreModel:
    """Number of training events of each item."""
    return StaticScores(data.popularity.astype(np.float32))


def fit_recent_popularity(data: FitData, settings: Settings) -> ScoreModel:
    """Number of training events of each item in the last `days` days of training."""
    times = data.train.timestamps_ms
    newest = int(times.max()) if len(times) else 0
    recent = data.train.rows[times > newest - int(settings["days"]) * _DAY_MS]
    return StaticScores(np.bincount(recent, minlength=data.items).astype(np.float32))


def fit_item_knn(data: FitData, settings: Settings) -> ScoreModel:
    """Item-to-item cosine over users, the `neighbours` most similar kept of each item (Sarwar et al. 2001)."""
    norms = np.sqrt(np.maximum(data.popularity, 1)).astype(np.float32)
    columns = (data.matrix @ sparse.diags_array(1.0 / norms)).tocsc()
    by_item = columns.T.tocsr()
    keep = min(int(settings["neighbours"]), data.items - 1)
    block = max(1, _BLOCK_CELLS // data.items)
    parts = [
        _neighbours(by_item[start : start + block] @ columns, start, keep) for start in range(0, data.items, block)
    ]
    # a candidate is scored by those of its own neighbours that the history holds, hence the transpose
    return LinearScores(sparse.vstack(parts, format="csr").T.tocsr())


def _neighbours(similarity: sparse.csr_matrix, start: int, keep: int) -> sparse.csr_matrix:
    """Keeps the `keep` largest positive entries of each row, without the item itself."""
    dense = similarity.toarray()
    dense[np.arange(len(dense)), start + np.arange(len(dense))] = 0.0
    best = np.argpartition(-dense, keep - 1, axis=1)[:, :keep] if keep else np.empty((len(dense), 0), np.int64)
    values = np.take_along_axis(dense, best, axis=1)
    rows = np.repeat(np.arange(len(dense)), best.shape[1])
    kept = sparse.csr_matrix((values.ravel(), (rows, best.ravel())), shape=dense.shape, dtype=np.float32)
    kept.eliminate_zeros()
    return kept


def fit_ease(data: FitData, settings: Settings) -> ScoreModel:
    """EASE: the closed-form item-item autoencoder B = I − P·diag(1/diag P), P = (XᵀX + λI)⁻¹ (Steck, WWW 2019).

    With `decay` below 1 the history is weighted by decay^age when scoring (fitted without).
    """
    penalty = settings["lambda"]
    known = data.ease_weights
    if penalty not in known:
        known[penalty] = _ease_weights(data.matrix, penalty)
    return LinearScores(known[penalty], settings.get("decay", 1.0))


def _ease_weights(matrix: sparse.csr_matrix, penalty: float) -> Floats:
    """(N, N) float32 by a Cholesky inverse in place: one N × N array is all that is held."""
    gram = _gram(matrix)
    gram[np.diag_indices_from(gram)] += penalty
    factor, _ = lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    _mirror(inverse)
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0.0)
    return np.ascontiguousarray(inverse)


def _gram(matrix: sparse.csr_matrix) -> Floats:
    """(N, N) XᵀX, column-major, a few columns at a time: as a sparse product it could take three times the memory."""
    items = matrix.shape[1]
    columns, rows = matrix.tocsc(), matrix.T.tocsr()
    gram = np.empty((items, items), np.float32, order="F")
    block = max(1, _BLOCK_CELLS // items)
    for start in range(0, items, block):
        gram[:, start : start + block] = (rows @ columns[:, start : start + block]).toarray()
    return gram


def _mirror(lower: Floats) -> None:
    """Copies the lower triangle onto the upper one, column by column, without a second matrix."""
    for column in range(len(lower)):
        lower[column, column + 1 :] = lower[column + 1 :, column]


def fit_ials(data: FitData, settings: Settings) -> ScoreModel:
    """Implicit ALS (Hu, Koren, Volinsky 2008) of the package `implicit`.

    Raises:
        MissingPartError: when the package is not installed.
    """
    try:
        from implicit.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:
        raise MissingPartError("the iALS baseline needs `implicit`: pip install 'recsys[train]'") from None
    # its own threads and those of BLAS slow each other down by an order of magnitude
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=int(settings["factors"]),
            regularization=settings["regularisation"],
            alpha=settings["alpha"],
            iterations=int(settings["iterations"]),
            num_threads=data.threads,
            random_state=0,
        )
        model.fit(data.matrix, show_progress=False)
    return FactorScores(model)


@dataclass(frozen=True, slots=True)
class Baseline:
    """One yardstick.

    Attributes:
        name: the row of the report.
        title: what it is, for a reader.
        fit: fits one setting.
        grid: the settings tried; validation NDCG@10 chooses.
        refusal: why it cannot be fitted on such data, or None.
    """

    name: str
    title: str
    fit: Callable[[FitData, Settings], ScoreModel]
    grid: tuple[Settings, ...] = (MappingProxyType({}),)
    refusal: Callable[[FitData], str | None] = lambda data: None


def _needs_times(data: FitData) -> str | None:
    return None if data.real_times else "the data hold an order but no times"


def _needs_small_catalogue(data: FitData) -> str | None:
    if data.items <= EASE_MAX_ITEMS:
        return None
    return (
        f"{data.items:,} items: its dense items × items matrix is only built up to {EASE_MAX_ITEMS:,} "
        f"(here {data.items**2 * 4 / 2**30:,.0f} GiB)"
    )


def _grid(**values: tuple[float, ...]) -> tuple[Settings, ...]:
    """Every combination of the values."""
    combinations: list[dict[str, float]] = [{}]
    for name, choices in values.items():
        combinations = [{**known, name: choice} for known in combinations for choice in choices]
    return tuple(MappingProxyType(settings) for settings in combinations)


BASELINES: Final = (
    Baseline("popularity", "popularity", fit_popularity),
    Baseline(
        "recent_popularity",
        "recent popularity",
        fit_recent_popularity,
        _grid(days=(1, 7, 30, 90)),
        _needs_times,
    ),
    Baseline("item_knn_cosine", "ItemKNN, cosine", fit_item_knn, _grid(neighbours=(50,))),
    Baseline(
        "ials", "iALS", fit_ials, _grid(factors=(128,), regularisation=(1.0, 10.0), alpha=(1.0, 5.0), iterations=(15,))
    ),
    Baseline("ease", "EASE", fit_ease, _grid(**{"lambda": (200.0, 1_000.0)}), _needs_small_catalogue),
    Baseline(
        "ease_recency",
        "EASE, recency-weighted",
        fit_ease,
        _grid(**{"lambda": (200.0, 1_000.0)}, decay=(0.8, 0.9)),
        _needs_small_catalogue,
    ),
)
"""The table of yardsticks, in the order of the report."""

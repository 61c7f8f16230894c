"""The yardsticks of every report: models without gradient descent, fitted on training events, tuned on validation.

What a model must beat to have earned its training time is not popularity but EASE over a recency-weighted history:
order is most of the signal on many sets. EASE scores the whole catalogue; the others answer as channels do, so that a
million items take no more memory than their lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from recsys.data.interactions import Interactions
from recsys.errors import MissingPartError
from recsys.evaluate.yardstick_models import FactorSearch, LinearScores, OfDistinctItems, YardstickModel, binary
from recsys.index.config import IndexConfig
from recsys.index.vector_index import VectorIndex
from recsys.retrieval.neighbour_channel import NeighbourChannel
from recsys.retrieval.static_channel import StaticChannel
from recsys.types import Floats, RaggedRows, Rows, offsets_of

Settings: TypeAlias = Mapping[str, float]
"""Hyper-parameters of one fit, by name."""

EASE_MAX_ITEMS: Final = 20_000
"""Above this the dense items × items matrix of EASE (float32) takes more than 1.6 GB and hours of one core."""
IALS_MAX_ROWS: Final = 300_000
"""Users and items together above which iALS takes some ten seconds of a core an iteration, gigabytes, and, since no
index finds the first of its factors reliably, milliseconds a user to look through them all."""
_DAY_MS: Final = 86_400_000
_BLOCK_CELLS: Final = 4_000_000
_BLOCK_PAIRS: Final = 2_000_000
"""Pairs of items that a user has, counted at once: at most 16 MB."""


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

    @property
    def users_of(self) -> NDArray[np.int64]:
        """(N,) users who have each item."""
        return np.bincount(self.matrix.indices, minlength=self.items)

    @cached_property
    def ease_weights(self) -> dict[float, Floats]:
        """EASE's weights by λ, kept because two baselines share them."""
        return {}


def fit_popularity(data: FitData, settings: Settings) -> YardstickModel:
    """Number of training events of each item."""
    return StaticChannel("popularity", data.popularity.astype(np.float32))


def fit_recent_popularity(data: FitData, settings: Settings) -> YardstickModel:
    """Number of training events of each item in the last `days` days of training."""
    times = data.train.timestamps_ms
    newest = int(times.max()) if len(times) else 0
    recent = data.train.rows[times > newest - int(settings["days"]) * _DAY_MS]
    return StaticChannel("recent_popularity", np.bincount(recent, minlength=data.items).astype(np.float32))


def fit_item_knn(data: FitData, settings: Settings) -> YardstickModel:
    """Item-to-item cosine over users, the `neighbours` most similar kept of each item (Sarwar et al. 2001).

    A candidate is scored by those of its own neighbours that the history holds, so what is kept of an item is whom it
    is a neighbour of. The pairs are gone through twice, which makes these lists without a copy of all: first for the
    last neighbour that each item keeps, then for who comes before it. Among equals the lower row is the nearer.
    """
    keep = int(settings["neighbours"])
    least = np.zeros(data.items, np.float32)
    last = np.full(data.items, data.items, np.int32)
    kept = 0
    for item, others, cosines in _cosine_rows(data):
        kept += min(keep, len(others))
        if len(others) > keep:
            least[item], last[item] = _last_kept(others, cosines, keep)
    rows, votes, lengths = np.empty(kept, np.int32), np.empty(kept, np.float32), np.zeros(data.items, np.int64)
    filled = 0
    for item, others, cosines in _cosine_rows(data):
        of = (cosines > least[others]) | ((cosines == least[others]) & (item <= last[others]))
        lengths[item] = np.count_nonzero(of)
        part = slice(filled, filled + lengths[item])
        rows[part], votes[part] = others[of], cosines[of]
        filled = part.stop
    return OfDistinctItems(NeighbourChannel("item_knn_cosine", RaggedRows(rows, offsets_of(lengths)), votes))


def _cosine_rows(data: FitData) -> Iterator[tuple[int, Rows, Floats]]:
    """Every item with the items that share a user with it and their cosines, the same bits from either side."""
    norms = np.sqrt(data.users_of).astype(np.float32)
    by_item = data.matrix.T.tocsr()
    pairs = by_item @ np.diff(data.matrix.indptr).astype(np.float64)
    starts = np.flatnonzero(np.diff(np.cumsum(pairs) // _BLOCK_PAIRS, prepend=-1))
    for start, stop in pairwise([*starts.tolist(), data.items]):
        common = (by_item[start:stop] @ data.matrix).tocsr()
        for line in range(stop - start):
            part = slice(common.indptr[line], common.indptr[line + 1])
            others, item = common.indices[part], start + line
            cosines = common.data[part] / (norms[item] * norms[others])
            apart = others != item
            yield item, others[apart], cosines[apart]


def _last_kept(others: Rows, cosines: Floats, keep: int) -> tuple[float, int]:
    """Cosine and row of the last of the `keep` nearest; there are more."""
    least = float(np.partition(cosines, -keep)[-keep])
    places = keep - int(np.count_nonzero(cosines > least))
    return least, int(np.partition(others[cosines == least], places - 1)[places - 1])


def fit_ease(data: FitData, settings: Settings) -> YardstickModel:
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


def fit_ials(data: FitData, settings: Settings) -> YardstickModel:
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
    index, _ = VectorIndex.build(model.item_factors, IndexConfig(kind="flat", device="cpu"))
    return FactorSearch("ials", model, index)


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
    fit: Callable[[FitData, Settings], YardstickModel]
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


def _needs_few_rows(data: FitData) -> str | None:
    rows = len(data.train) + data.items
    if rows <= IALS_MAX_ROWS:
        return None
    return (
        f"{rows:,} users and items: its factors are only fitted, and looked through one by one, up to {IALS_MAX_ROWS:,}"
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
        "ials",
        "iALS",
        fit_ials,
        _grid(factors=(128,), regularisation=(1.0, 10.0), alpha=(1.0, 5.0), iterations=(15,)),
        _needs_few_rows,
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


def title_of(name: str) -> str:
    """What a report calls a model: a yardstick by its title, others by their name."""
    return next((baseline.title for baseline in BASELINES if baseline.name == name), name)

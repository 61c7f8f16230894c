"""ItemKNN: for every item the items chosen by the same users, by shrunk cosine (Sarwar et al., WWW 2001)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field
from scipy import sparse

from recsys.bundle.component import ComponentInfo, component_directory, write_component
from recsys.config import Config
from recsys.data.interactions import Interactions
from recsys.evaluate.section import Section
from recsys.retrieval.neighbour_channel import NeighbourChannel
from recsys.train.progress import Progress
from recsys.train.view import TrainView
from recsys.types import Floats, RaggedRows, offsets_of

_BLOCK: Final = 512


class ItemKnnConfig(Config):
    """What counts as a neighbour.

    Attributes:
        neighbours: kept per item.
        shrinkage: added to the denominator of the cosine, so that few common users weigh little.
        newest: a user's newest choices that are counted; the others would make pairs without end.
        history: newest items of a user that vote when served; None = all.
        decay: a vote counts decay^(age - 1), the newest item having age 1.
    """

    neighbours: int = Field(default=50, ge=1)
    shrinkage: float = Field(default=10.0, ge=0)
    newest: int = Field(default=1000, ge=2)
    history: int | None = Field(default=None, ge=1)
    decay: float = Field(default=1.0, gt=0, le=1)


class ItemKnnRecipe:
    """The neighbourhood channel."""

    name = "item_knn"
    config_type = ItemKnnConfig
    needs: tuple[str, ...] = ()

    def fit(
        self,
        config: ItemKnnConfig,
        view: TrainView,
        inputs: Mapping[str, Path],
        out: Path,
        progress: Progress,
    ) -> dict[str, float]:
        """See `Recipe.fit`."""
        neighbours, similarities = item_neighbours(view.train, len(view.catalogue), config, progress)
        directory = component_directory(out, self.name)
        directory.mkdir(parents=True, exist_ok=True)
        NeighbourChannel.save(directory, neighbours, similarities)
        metrics = {
            "items_with_neighbours": float(np.count_nonzero(neighbours.lengths)),
            "neighbours": float(len(neighbours.values)),
        }
        write_component(
            out,
            ComponentInfo(
                name=self.name,
                kind="channel",
                type="neighbours",
                feature_set_hash=view.features.hash,
                catalogue_hash=view.catalogue.hash,
                metrics=metrics,
                options={"history": config.history, "decay": config.decay},
            ),
        )
        return metrics

    def sections(self, component: Path, evaluation: Mapping[str, Any]) -> list[Section]:
        """Nothing beside its row in the table of models."""
        return []


def item_neighbours(
    train: Interactions, size: int, config: ItemKnnConfig, progress: Progress | None = None
) -> tuple[RaggedRows, Floats]:
    """N lists of neighbours, best first, and their similarities.

    Similarity of i and j = common users / (√(users of i · users of j) + shrinkage).
    """
    chosen = _who_chose_what(train, size, config.newest)
    counts = np.asarray(chosen.sum(axis=0), np.float32).ravel()
    by_item = chosen.T.tocsr()
    rows, similarities, lengths = [], [], []
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        common = (by_item[start:stop] @ chosen).tocsr()
        for i in range(start, stop):
            best, values = _nearest(common, i, i - start, counts, config)
            rows.append(best)
            similarities.append(values)
            lengths.append(len(best))
        if progress is not None:
            progress.update(stop, size, "items")
    if not rows:
        return RaggedRows.empty(size), np.empty(0, np.float32)
    return RaggedRows(np.concatenate(rows), offsets_of(lengths)), np.concatenate(similarities)


def _who_chose_what(train: Interactions, size: int, newest: int) -> sparse.csr_matrix:
    """(U, N) ones where a user chose an item among the newest so many choices."""
    user = train.user_of()
    recent = train.offsets[1:][user] - np.arange(train.size) <= newest
    ones = np.ones(int(recent.sum()), np.float32)
    matrix = sparse.csr_matrix((ones, (user[recent], train.rows[recent])), shape=(len(train), size))
    matrix.data[:] = 1.0
    return matrix


def _nearest(
    common: sparse.csr_matrix, item: int, line: int, counts: Floats, config: ItemKnnConfig
) -> tuple[Any, Floats]:
    """The rows nearest to `item`, whose counts of common users are line `line` of `common`, and how near."""
    part = slice(common.indptr[line], common.indptr[line + 1])
    others, users = common.indices[part], common.data[part]
    apart = others != item
    others, users = others[apart], users[apart]
    values = users / (np.sqrt(counts[item] * counts[others]) + np.float32(config.shrinkage))
    if len(values) > config.neighbours:
        kept = np.argpartition(-values, config.neighbours)[: config.neighbours]
        others, values = others[kept], values[kept]
    order = np.lexsort((others, -values))
    return others[order].astype(np.int32), values[order].astype(np.float32)

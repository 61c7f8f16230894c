"""ItemKNN: a candidate's nearest neighbours, by shrunk cosine, vote for it (Sarwar et al., WWW 2001)."""

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
from recsys.evaluate.metrics import ndcg
from recsys.evaluate.ranking import rank_channel
from recsys.evaluate.sampling import draw_users
from recsys.evaluate.section import Section
from recsys.retrieval.neighbour_channel import NeighbourChannel
from recsys.train.progress import Progress
from recsys.train.view import TrainView
from recsys.types import Floats, RaggedRows, offsets_of

DECAYS: Final = (1.0, 0.9, 0.8, 0.7)
"""What `decay` is chosen among on validation; the first stands when nothing tells them apart."""
VALIDATION_EVENTS: Final = 1_000
"""Validation events it is chosen on, at most."""
_BLOCK: Final = 512


class ItemKnnConfig(Config):
    """What counts as a neighbour, and what a vote counts.

    Attributes:
        neighbours: kept per item: those that may vote for it.
        shrinkage: added to the denominator of the cosine, so that few common users weigh little.
        newest: a user's newest choices that are counted; the others would make pairs without end.
        history: newest items of a user that vote when served; None = all.
        decay: a vote counts decay^(age - 1), the newest item having age 1; None = chosen among DECAYS by NDCG@10 on
            validation (a refit takes its twin's choice; 1 without either).
        votes: items that one item may vote for, those it is most similar to; bounds what a request costs where one
            item is a neighbour of very many.
    """

    neighbours: int = Field(default=50, ge=1)
    shrinkage: float = Field(default=10.0, ge=0)
    newest: int = Field(default=1000, ge=2)
    history: int | None = Field(default=None, ge=1)
    decay: float | None = Field(default=None, gt=0, le=1)
    votes: int = Field(default=1000, ge=1)


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
        voted_for, weights = votes_of(neighbours, similarities, config.votes)
        decay, chosen_by = self._decay(config, view, voted_for, weights)
        directory = component_directory(out, self.name)
        directory.mkdir(parents=True, exist_ok=True)
        NeighbourChannel.save(directory, voted_for, weights)
        metrics = {
            "items_with_neighbours": float(np.count_nonzero(neighbours.lengths)),
            "votes": float(len(voted_for.values)),
            "decay": decay,
            **chosen_by,
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
                options={"history": config.history, "decay": decay},
            ),
        )
        return metrics

    def _decay(
        self, config: ItemKnnConfig, view: TrainView, voted_for: RaggedRows, weights: Floats
    ) -> tuple[float, dict[str, float]]:
        """The decay to serve with, and by what it was chosen where there was a choice."""
        if config.decay is not None:
            return config.decay, {}
        if not view.validation:
            return view.chosen.get("decay", DECAYS[0]), {}
        events = draw_users(view.validation, VALIDATION_EVENTS, view.seed)
        values = []
        for decay in DECAYS:
            channel = NeighbourChannel(self.name, voted_for, weights, config.history, decay)
            values.append(float(ndcg(rank_channel(channel, events, len(view.catalogue)).ranks, 10).mean()))
        best = int(np.argmax(values))
        return DECAYS[best], {"validation_ndcg@10": values[best], "validation_ndcg@10_undecayed": values[0]}

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


def votes_of(neighbours: RaggedRows, similarities: Floats, most: int) -> tuple[RaggedRows, Floats]:
    """N lists of the rows that have a row among their neighbours, most similar first: the transposed lists.

    So a candidate is scored by its own neighbours alone, as in the method's paper; were an item to vote for *its*
    neighbours, an item near to many would collect votes from histories it has little to do with.

    Args:
        neighbours: N lists.
        similarities: aligned with `neighbours.values`.
        most: kept per list.
    """
    owner = np.repeat(np.arange(len(neighbours), dtype=np.int32), neighbours.lengths)
    order = np.lexsort((owner, -similarities, neighbours.values))
    lengths = np.bincount(neighbours.values, minlength=len(neighbours))
    place = np.arange(len(order)) - np.repeat(offsets_of(lengths)[:-1], lengths)
    order = order[place < most]
    return RaggedRows(owner[order], offsets_of(np.minimum(lengths, most))), similarities[order]


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

"""A tree retriever under the one trainer: resumed to the bit, its table row by row, and better than popularity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.index.item_tree import ItemTree
from recsys.models.tdm import Tdm
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.train.config import TrainerConfig
from recsys.train.progress import QuietProgress
from recsys.train.trainer import Trainer
from recsys.train.tree_objective import TreeObjective
from recsys.train.tree_validation import TreeValidator
from recsys.train.view import TrainView

ITEMS = 100


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    folder: Path = tmp_path_factory.mktemp("planted") / "data"
    return planted_view(folder, Planted(users=300, items=ITEMS, clusters=5, mean_length=12))


def tdm(view: TrainView) -> Tdm:
    torch.manual_seed(0)
    order = np.arange(ITEMS) % 5  # the clusters, side by side
    tree = ItemTree(np.argsort(order, kind="stable").astype(np.int32), ITEMS)
    return Tdm(build_model(TwoTowerConfig(dim=16, history="recency", dropout=0.1), view), tree, attended=8)


class KilledError(Exception):
    pass


def trained(model: Tdm, view: TrainView, scratch: Path, killed_at: int | None = None, **settings: object) -> None:
    source = SequenceSource(
        view.train,
        {field.name: view.users[field.name] for field in model.users.shape.user_fields},
        ITEMS,
        SequenceSampling(batch_users=16, length=model.users.shape.history_length),
    )
    scratch.mkdir(exist_ok=True)
    config = TrainerConfig.model_validate({"max_epochs": 1, "lr": 5e-3, "checkpoint_s": 1e-9, **settings})
    trainer = Trainer(model, TreeObjective(model, 8, 16), source, config, QuietProgress(scratch))
    if killed_at is not None:
        step = trainer.step

        def until_killed(*batches: object) -> float:
            if trainer.run.updates == killed_at:
                raise KilledError
            return step(*batches)  # type: ignore[arg-type]

        trainer.step = until_killed  # type: ignore[method-assign]
    trainer.fit()


@pytest.mark.parametrize("tables", ["dense", "rowwise"])
def test_a_run_killed_between_steps_ends_with_the_same_weights(view: TrainView, tmp_path: Path, tables: str) -> None:
    whole, parts = tdm(view), tdm(view)
    torch.manual_seed(1)
    trained(whole, view, tmp_path / "whole", table_optimiser=tables)
    torch.manual_seed(1)
    with pytest.raises(KilledError):
        trained(parts, view, tmp_path / "parts", killed_at=5, table_optimiser=tables)
    resumed = tdm(view)
    torch.manual_seed(77)
    trained(resumed, view, tmp_path / "parts", table_optimiser=tables)
    for (name, weight), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_row_by_row_only_nodes_that_a_batch_met_move(view: TrainView) -> None:
    model = tdm(view).train()
    model.inner.sparse = True
    source = SequenceSource(
        view.train,
        {field.name: view.users[field.name] for field in model.users.shape.user_fields},
        ITEMS,
        SequenceSampling(batch_users=1, length=model.users.shape.history_length),
    )
    TreeObjective(model, 2, 2)(next(source.epoch(0))).backward()  # type: ignore[no-untyped-call]
    gradient: Tensor | None = model.inner.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert len(torch.unique(gradient.coalesce().indices())) < model.tree.inner


def test_after_some_epochs_it_ranks_better_than_popularity(view: TrainView, tmp_path: Path) -> None:
    model = tdm(view)
    torch.manual_seed(1)
    trained(model, view, tmp_path, max_epochs=6, lr=1e-2)
    assert view.validation is not None
    popular = np.bincount(view.train.rows, minlength=ITEMS)
    better = np.array([(popular > popular[target]).sum() for target in view.validation.target])
    validator = TreeValidator(view.validation, view.encoder, view.user_frame, ITEMS)
    assert validator(model)["hr@10"] > 1.5 * np.mean(better < 10)

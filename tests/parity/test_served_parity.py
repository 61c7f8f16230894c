"""What the service answers is what torch computes: 500 users, top 100, over gRPC and in training's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import recsys
from recsys.bundle.manifest import FEATURES_FOLDER, USERS_FOLDER, DatasetReference, Manifest, SplitReference
from recsys.bundle.publish import assemble, publish
from recsys.bundle.users import write_users
from recsys.columns import USER_ID
from recsys.models.two_tower import TwoTower
from recsys.recipes import RECIPES
from recsys.recipes.two_tower import TwoTowerConfig, TwoTowerRecipe, build_model
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.testing.serving import RunningServer
from recsys.train.progress import QuietProgress
from recsys.train.view import TrainView
from services.rpc.client import Client

USERS, K = 500, 100
CONFIG = TwoTowerConfig(dim=16, blocks=2, heads=2, max_epochs=2, patience=2, batch_users=64)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    world = Planted(users=USERS, items=1_000, clusters=10, mean_length=30)
    return planted_view(tmp_path_factory.mktemp("world") / "data", world)


@pytest.fixture(scope="module")
def model(view: TrainView, tmp_path_factory: pytest.TempPathFactory) -> TwoTower:
    """Trained anew: the same seed gives the same weights that the bundle was exported from."""
    torch.set_num_threads(view.threads)
    torch.manual_seed(view.seed)
    model = build_model(CONFIG, view)
    TwoTowerRecipe()._train(model, CONFIG, view, QuietProgress(tmp_path_factory.mktemp("scratch")))
    return model.eval()


@pytest.fixture(scope="module")
def bundles(view: TrainView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("fitted")
    RECIPES["two_tower"].fit(CONFIG, view, {}, work, QuietProgress(tmp_path_factory.mktemp("scratch")))
    manifest = Manifest(
        version="unnamed",
        created="",
        package_version=recsys.__version__,
        feature_set_hash=view.features.hash,
        catalogue_hash=view.catalogue.hash,
        dataset=DatasetReference(name="planted", content_hash=""),
        split=SplitReference(holdout="last"),
        files={},
    )

    def write_content(folder: Path) -> None:
        view.catalogue.save(folder)
        view.features.save(folder / FEATURES_FOLDER)
        write_users(folder / USERS_FOLDER, interactions=view.train, catalogue=view.catalogue, users=view.user_frame)

    folder = tmp_path_factory.mktemp("served") / "bundles"
    components = [work / "components" / name for name in ("two_tower", "two_tower_scorer")]
    version = assemble(folder, manifest, components, write_content).name
    publish(folder, version)
    return folder


def exact_scores(model: TwoTower, view: TrainView) -> np.ndarray:  # type: ignore[type-arg]
    """(U, N) by the path that training takes: right-padded, no export, no index."""
    in_order = pl.DataFrame({USER_ID: view.train.user_ids})
    assert in_order.height == len(next(iter(view.users.values())))
    rows = []
    with torch.no_grad():
        items = model.items.catalogue_vectors()
        table = model.items.history_table()
        for u in range(len(view.train.user_ids)):
            history = view.train.rows[view.train.offsets[u] : view.train.offsets[u + 1]]
            codes = torch.from_numpy(view.encoder.item_index[history][-model.shape.history_length :]).long()
            user = {name: torch.from_numpy(np.array(view.users[name][u : u + 1])).long() for name in view.users}
            state = model.user_states(table[codes][None], user)[:, -1]
            rows.append((model.user_vectors(state) @ items.T).numpy()[0])
    return np.stack(rows)


def test_the_served_top_100_is_the_exact_ranking_of_torch(view: TrainView, model: TwoTower, bundles: Path) -> None:
    scores = exact_scores(model, view)
    same, worst = 0, 0.0
    with RunningServer(bundles, "--workers", "1") as server, Client(server.address) as client:
        for u, user_id in enumerate(view.train.user_ids.tolist()):
            history = view.train.rows[view.train.offsets[u] : view.train.offsets[u + 1]]
            answer = client.recall(user_id, k=K, channels=["two_tower"], history=view.catalogue.ids[history])
            served = view.catalogue.rows_of(answer.items.ids)
            eligible = scores[u].copy()
            eligible[history] = -np.inf
            last = np.sort(eligible)[-K]
            assert len(served) == K
            same += int((eligible[served] >= last - 1e-6).sum())
            worst = max(worst, float(np.abs(eligible[served] - answer.items.scores).max()))
    assert same >= 0.999 * USERS * K
    assert worst < 1e-4

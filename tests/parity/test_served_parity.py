"""What the service answers is what torch computes: 500 users, top 100, over gRPC and in training's own arithmetic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import recsys
from recsys.bundle.manifest import FEATURES_FOLDER, USERS_FOLDER, DatasetReference, Manifest, SplitReference
from recsys.bundle.publish import assemble, current, publish
from recsys.bundle.users import write_users
from recsys.columns import EventType
from recsys.config import Config
from recsys.models.retriever import Retriever
from recsys.models.tdm import Tdm
from recsys.recipes import RECIPES
from recsys.recipes.mind import MindConfig, MindRecipe
from recsys.recipes.retriever_config import RetrieverConfig
from recsys.recipes.retriever_recipe import RetrieverRecipe, train
from recsys.recipes.tdm_config import TdmConfig
from recsys.recipes.tdm_trees import begun, started_towers
from recsys.recipes.two_tower import TwoTowerConfig, TwoTowerRecipe, build_model
from recsys.retrieval.filters import AttributeFilter
from recsys.stores.store import Event
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.testing.serving import RunningServer
from recsys.train.progress import QuietProgress
from recsys.train.view import TrainView
from recsys.types import Floats, Rows
from services.rpc.client import Client

USERS, K = 500, 100
VECTORS: dict[str, RetrieverConfig] = {
    "two_tower": TwoTowerConfig(dim=16, blocks=2, heads=2, max_epochs=2, patience=2, batch_users=64),
    "mind": MindConfig(dim=16, interests=4, max_epochs=2, patience=2, batch_users=64),
}
TREE = TdmConfig(dim=16, blocks=2, heads=2, max_epochs=2, batch_users=64, round_epochs=1, beam=2_000)
CONFIGS: dict[str, Config] = {**VECTORS, "tdm": TREE}
FITTED: dict[str, RetrieverRecipe] = {"two_tower": TwoTowerRecipe(), "mind": MindRecipe()}  # type: ignore[type-arg]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> TrainView:
    world = Planted(users=USERS, items=1_000, clusters=10, mean_length=30)
    return planted_view(tmp_path_factory.mktemp("world") / "data", world)


@pytest.fixture(scope="module", params=sorted(VECTORS))
def model(request: pytest.FixtureRequest, view: TrainView, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """Trained anew: the same seed gives the same weights that the bundle was exported from."""
    torch.set_num_threads(view.threads)
    torch.manual_seed(view.seed)
    config = VECTORS[request.param]
    model = FITTED[request.param].build_model(config, view)
    train(model, config, view, QuietProgress(tmp_path_factory.mktemp("scratch")))
    return model.eval()


@pytest.fixture(scope="module")
def bundles(view: TrainView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("fitted")
    for name, config in CONFIGS.items():
        RECIPES[name].fit(config, view, {}, work, QuietProgress(tmp_path_factory.mktemp("scratch")))
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
    components = [work / "components" / name for name in ("two_tower", "two_tower_scorer", "mind", "tdm")]
    version = assemble(folder, manifest, components, write_content).name
    publish(folder, version)
    return folder


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    with RunningServer(bundles, "--workers", "1") as running:
        yield running


def user_vectors(model: Retriever, view: TrainView) -> Iterator[Tensor]:
    """([K,] d_out) of each user by the path that training takes: right-padded, no export."""
    table = model.items.history_table()
    for u in range(len(view.train.user_ids)):
        history = history_of(view, u)
        codes = torch.from_numpy(view.encoder.item_index[history][-model.shape.history_length :]).long()
        user = {name: torch.from_numpy(np.array(view.users[name][u : u + 1])).long() for name in view.users}
        yield model.user_vectors(model.user_states(table[codes][None], user)[0, -1])


@torch.no_grad()
def exact_scores(model: Retriever, view: TrainView) -> Floats:
    """(U, N) without an index; the greatest of several vectors'."""
    items = model.items.catalogue_vectors()
    return np.stack([(v @ items.T).view(-1, len(items)).amax(dim=0).numpy() for v in user_vectors(model, view)])


@torch.no_grad()
def exact_tree_scores(model: Tdm, view: TrainView) -> Floats:
    """(U, N) without a beam: the product and the attention of every leaf."""
    leaves = model.users.items.catalogue_vectors()
    rows = []
    for u, vector in enumerate(user_vectors(model.users, view)):
        newest = history_of(view, u)[::-1][: model.attention.attended].astype(np.int64)
        behaviours = model.bare(leaves[newest])[None]
        rows.append(
            model.newest_scores(vector[None], behaviours, torch.arange(len(newest))[None] + 1, leaves)[0].numpy()
        )
    return np.stack(rows)


def history_of(view: TrainView, u: int) -> Rows:
    return view.train.rows[view.train.offsets[u] : view.train.offsets[u + 1]]


def assert_served_exactly(channel: str, scores: Floats, view: TrainView, server: RunningServer) -> None:
    same, worst = 0, 0.0
    with Client(server.address) as client:
        for u, user_id in enumerate(view.train.user_ids.tolist()):
            history = history_of(view, u)
            answer = client.recall(user_id, k=K, channels=[channel], history=view.catalogue.ids[history])
            served = view.catalogue.rows_of(answer.items.ids)
            eligible = scores[u].copy()
            eligible[history] = -np.inf
            last = np.sort(eligible)[-K]
            assert len(served) == K
            same += int((eligible[served] >= last - 1e-6).sum())
            worst = max(worst, float(np.abs(eligible[served] - answer.items.scores).max()))
    assert same >= 0.999 * USERS * K
    assert worst < 1e-4


def test_the_served_top_100_is_the_exact_ranking_of_torch(
    view: TrainView, model: Retriever, server: RunningServer
) -> None:
    assert_served_exactly(model.name, exact_scores(model, view), view, server)


def test_the_served_top_100_of_a_tree_is_the_exact_ranking_of_torch(
    view: TrainView, bundles: Path, server: RunningServer
) -> None:
    begin = replace(view, start=current(bundles))
    towers = build_model(TREE, begin, "tdm")
    started_towers(towers, TREE, begin)
    assert_served_exactly("tdm", exact_tree_scores(begun(towers, TREE, begin).model.eval(), view), view, server)


@pytest.mark.parametrize("channel", sorted(CONFIGS))
def test_an_event_recorded_now_changes_the_very_next_answer(
    channel: str, view: TrainView, server: RunningServer
) -> None:
    """It is the answer to the history with that event as its newest."""
    place = sorted(CONFIGS).index(channel)
    user = int(view.train.user_ids[place])
    history = history_of(view, place)
    new = int(np.setdiff1d(np.arange(len(view.catalogue)), history)[17])
    now = time.time_ns() // 1_000_000
    event = Event(place, user, int(view.catalogue.ids[new]), EventType.CLICK, now)
    with Client(server.address) as client:
        before = client.recall(user, k=K, channels=[channel])
        assert client.record([event]).accepted == 1
        after = client.recall(user, k=K, channels=[channel])
        longer = view.catalogue.ids[np.append(history, new)]
        wanted = client.recall(user, k=K, channels=[channel], history=longer)
    assert before.items.ids.tolist() != after.items.ids.tolist()
    assert after.items.ids.tolist() == wanted.items.ids.tolist()
    assert np.allclose(after.items.scores, wanted.items.scores, atol=1e-6)


ODD_HISTORIES = {
    "empty": [],
    "one item": [0],
    "one item over and over": [7] * 500,
    "items twice each": [*range(40), *range(40)],
    "unknown items alone": [-1] * 30,
    "known items among unknown ones": [-1, 3, -1, 4, -1],
    "10,000 items": [*range(400)] * 25,
}
"""By place in the catalogue; -1 = an item that it has not, or has no longer."""


@pytest.mark.parametrize("channel", sorted(CONFIGS))
@pytest.mark.parametrize("places", ODD_HISTORIES.values(), ids=ODD_HISTORIES)
def test_odd_histories_are_answered_in_full_without_what_is_in_them(
    channel: str, places: list[int], view: TrainView, server: RunningServer
) -> None:
    unknown = int(view.catalogue.ids.max()) + 1
    history = [unknown if place < 0 else int(view.catalogue.ids[place]) for place in places]
    with Client(server.address) as client:
        answer = client.recall(None, k=K, channels=[channel], history=history)
    assert len(set(answer.items.ids.tolist())) == len(answer.items.ids) == K
    assert not set(answer.items.ids.tolist()) & set(history)
    assert np.isfinite(answer.items.scores).all()
    assert answer.about.degraded == ()


@pytest.mark.parametrize("channel", sorted(CONFIGS))
def test_items_that_have_left_the_catalogue_say_nothing(channel: str, view: TrainView, server: RunningServer) -> None:
    """A history of nothing else is an empty one; between others they are passed over."""
    known, gone = view.catalogue.ids[[5, 9, 2]].tolist(), int(view.catalogue.ids.max()) + 1
    with Client(server.address) as client:
        for full, left in (([gone] * 30, []), ([known[0], gone, known[1], known[2], gone], known)):
            answers = [client.recall(None, k=K, channels=[channel], history=h) for h in (full, left or [gone])]
            assert answers[0].items.ids.tolist() == answers[1].items.ids.tolist()


@pytest.mark.parametrize("channel", sorted(CONFIGS))
def test_all_that_passes_a_filter_is_found_but_what_is_excluded(
    channel: str, view: TrainView, server: RunningServer
) -> None:
    of_kind = view.catalogue.ids[3::10].tolist()  # the planted clusters are dealt in turn
    history, excluded = of_kind[:4], of_kind[50:60]
    asked = AttributeFilter("category", any_of=("c3",))
    with Client(server.address) as client:
        answer = client.recall(None, k=K, channels=[channel], history=history, exclude=excluded, filters=[asked])
    assert sorted(answer.items.ids.tolist()) == sorted(set(of_kind) - set(history) - set(excluded))
    assert answer.about.degraded == ()

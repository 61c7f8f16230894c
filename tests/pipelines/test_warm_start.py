"""Runs that start from an earlier one: each twin from its twin, nothing held out is given away, all cached as ever."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from pipelines.display import PlainDisplay
from pipelines.presets import PipelineConfig, load_preset
from pipelines.step import Result, StepContext
from pipelines.training import TrainingRun, run_training
from pipelines.warm_start import Source, StartWork, WarmStart
from recsys.bundle.manifest import read_manifest
from recsys.bundle.publish import current
from recsys.bundle.users import BundleUsers
from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.config import override
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset, write_dataset
from recsys.data.interactions import Interactions
from recsys.data.splits import Holdout, split
from recsys.errors import BundleError, PreconditionError, UsageError
from recsys.index.item_tree import ItemTree
from recsys.testing.planted import Planted, planted_events, planted_items, planted_users
from recsys.train.progress import QuietProgress

pytestmark = pytest.mark.usefixtures("local_ray")

WORLD = Planted(users=80, items=40, mean_length=8)
NEWEST = 139
"""An item that is new in the test of trees."""
QUICK = ["two_tower.dim=8", "two_tower.max_epochs=2", "two_tower.history=mean", "two_tower.warm_start.epochs=0.5"]


def world(path: Path, *, share: float = 1.0, without_last: int = 0, without_item: int = 0) -> Dataset:
    """The planted world: its oldest share of the events, or all but each user's last so many, or without an item."""
    events = planted_events(WORLD).filter(pl.col(ITEM_ID) != without_item)
    items = planted_items(WORLD).filter(pl.col(ITEM_ID) != without_item)
    until = events[TIMESTAMP_MS].quantile(share)
    newest = pl.col(TIMESTAMP_MS).rank("ordinal", descending=True).over(USER_ID)
    events = events.filter((pl.col(TIMESTAMP_MS) <= until) & (newest > without_last))
    return write_dataset(path, events=events, items=items, users=planted_users(WORLD), name=path.name, time="real")


def train(
    data: Dataset,
    out: Path,
    warm_start: Path | None = None,
    *settings: str,
    retriever: str = "two_tower",
    **more: object,
) -> TrainingRun:
    config: PipelineConfig = override(load_preset("demo", data), [*QUICK, *settings])
    config = config.replaced(recipes=["popularity", retriever], holdouts=["last"], refit=False)
    quiet = PlainDisplay(Console(file=io.StringIO()))
    return run_training(config, data.path, out, display=quiet, warm_start=warm_start, **more)  # type: ignore[arg-type]


BOTH = {"holdouts": ["last", "time:0.2"], "refit": True}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A run with both twins and a refit, on all but the newest tenth of the events."""
    folder = tmp_path_factory.mktemp("older")
    train(world(folder / "data", share=0.9), folder / "run", **BOTH)
    return folder / "run"


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return world(tmp_path_factory.mktemp("newer") / "data")


@pytest.fixture(scope="module")
def warm(older: Path, newer: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainingRun]:
    """A run on all events that starts from the older one."""
    out = tmp_path_factory.mktemp("warm") / "run"
    return out, train(newer, out, older, **BOTH)


def redone(run: TrainingRun) -> list[str]:
    return [name for name, step in run.steps.items() if not step.cached]


def twin_of(run: Path, protocol: str) -> Path:
    return run / "bundles" / read_manifest(current(run / "bundles")).twins[protocol]


def start(data: Dataset, bundle: Path, holdout: str, scratch: Path, recipe: str = "two_tower") -> Result:
    """What the step does that checks a source."""
    work = StartWork(data.path, holdout, False, bundle, Source.open(bundle).begun_with(recipe))
    return work(StepContext(scratch, {}, QuietProgress(scratch), 1, "cpu"))


def test_each_branch_starts_from_its_like_and_the_bundle_says_so(older: Path, warm: tuple[Path, TrainingRun]) -> None:
    served = read_manifest(current(older / "bundles"))
    begun = {name: step.result["version"] for name, step in warm[1].steps.items() if name.startswith("start@")}
    assert begun == {
        "start@last": served.twins["leave_one_out"],
        "start@time:0.2": served.twins["global_time"],
        "start@all": served.version,
    }
    assert read_manifest(current(warm[0] / "bundles")).config["warm_start"] == served.version


def test_a_model_with_weights_takes_them_over_and_another_does_not(warm: tuple[Path, TrainingRun]) -> None:
    fit = warm[1].steps["fit:two_tower@last"].result
    assert fit["started_items"] > 30  # type: ignore[operator]
    assert fit["start_validation_ndcg@10"] > 0  # type: ignore[operator]
    assert "started_items" not in warm[1].steps["fit:popularity@last"].result


def test_the_same_again_finds_all_done_and_without_the_start_only_weights_are_learnt_anew(
    older: Path, newer: Dataset, warm: tuple[Path, TrainingRun]
) -> None:
    assert redone(train(newer, warm[0], older, **BOTH)) == []
    assert redone(train(newer, warm[0], publish_it=False)) == ["fit:two_tower@last", "merge@last", "bundle@last"]


def test_from_the_run_being_written_it_starts_from_the_newest_version_of_other_data(
    older: Path, newer: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(older, out)
    first = read_manifest(current(out / "bundles"))
    night = train(newer, out, out)
    assert night.steps["start@last"].result["version"] == first.twins["leave_one_out"]
    again = train(newer, out, out)
    assert redone(again) == []
    assert again.version == night.version


def test_from_the_run_being_written_the_same_data_give_nothing_to_start_from(older: Path) -> None:
    with pytest.raises(UsageError, match="was trained on these very data; give another --out"):
        train(Dataset.open(older.parent / "data"), older, older)


def test_a_bundle_may_be_named_in_place_of_a_run(older: Path, tmp_path: Path) -> None:
    twin = twin_of(older, "leave_one_out")
    named = WarmStart.open(twin, out=tmp_path, dataset_hash="")
    assert named.source(Holdout.parse("last"), everything=False).path == twin
    assert named.source(Holdout.parse("none"), everything=True).path == twin
    with pytest.raises(UsageError, match=r"was trained with --holdout last and names no twin for --holdout time:0\.2"):
        named.source(Holdout.parse("time:0.2"), everything=False)


def test_what_reaches_further_than_these_data_is_refused(older: Path, newer: Dataset, tmp_path: Path) -> None:
    last, time = twin_of(older, "leave_one_out"), twin_of(older, "global_time")
    assert start(newer, last, "last", tmp_path)["version"] == last.name
    assert start(newer, time, "time:0.2", tmp_path)["version"] == time.name
    cut = world(tmp_path / "cut", without_last=4)
    with pytest.raises(PreconditionError, match=r"was fitted on \d+ of the \d+ events that are held out here, such as"):
        start(cut, last, "last", tmp_path)
    past = world(tmp_path / "past", share=0.6)
    with pytest.raises(PreconditionError, match=r"fitted on events before 20.* but here all from 20.* are held out"):
        start(past, time, "time:0.2", tmp_path)


def test_who_has_two_interactions_counts_as_fitted_on_whole(older: Path, newer: Dataset, tmp_path: Path) -> None:
    """Nothing of theirs was held out, and an event that comes late can make the newer of the two a test."""
    twin = tmp_path / "twin"
    shutil.copytree(twin_of(older, "leave_one_out"), twin)
    catalogue = Catalogue.from_dataset(newer)
    test = split(newer, catalogue, Holdout.parse("last")).test
    assert test is not None
    user, item = int(test.user_ids[0]), int(test.target[0])
    for earlier, refused in (([item + 1], True), ([item + 1, item + 2], False)):
        rows = np.array([*earlier, item], np.int32) % len(catalogue)
        times = np.arange(len(rows), dtype=np.int64)
        known = Interactions(np.array([user]), np.array([0, len(rows)]), rows, times)
        BundleUsers.gather(interactions=known, catalogue=catalogue, users=newer.users()).save(twin / "users")
        if refused:
            with pytest.raises(PreconditionError, match=f"was fitted on 1 of the .*of user {user}"):
                start(newer, twin, "last", tmp_path)
        else:
            assert start(newer, twin, "last", tmp_path)["version"] == twin_of(older, "leave_one_out").name


def test_a_fit_on_everything_starts_no_held_out_twin(older: Path, newer: Dataset, tmp_path: Path) -> None:
    shutil.copytree(current(older / "bundles"), tmp_path / "alone")
    with pytest.raises(BundleError, match="there is no version"):  # its twins lie elsewhere
        train(newer, tmp_path / "run", tmp_path / "alone")
    with pytest.raises(UsageError, match="--warm-start with --holdout none: the epochs would be chosen on events"):
        train(newer, tmp_path / "run", older, holdouts=["none"])


def test_a_run_that_is_not_there_or_has_no_weights_is_refused_before_anything_is_started(
    older: Path, newer: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="nowhere: there is no such run; give the --out of an earlier one"):
        train(newer, out, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="nothing is published there"):
        train(newer, out, tmp_path / "empty")
    with pytest.raises(UsageError, match="holds no weights of popularity"):
        train(newer, out, older, only=["popularity"])
    assert not out.exists()


def test_altered_weights_are_refused_by_their_file(older: Path, newer: Dataset, tmp_path: Path) -> None:
    shutil.copytree(older / "bundles", tmp_path / "bundles")
    twin = twin_of(tmp_path, "leave_one_out")
    weights = twin / "components" / "two_tower" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=f"{weights}: was altered"):
        start(newer, twin, "last", tmp_path)
    weights.unlink()
    with pytest.raises(BundleError, match=f"{weights}: cannot be read"):
        start(newer, twin, "last", tmp_path)


def test_a_tree_goes_on_with_a_leaf_for_what_is_new_and_an_altered_one_is_refused(
    newer: Dataset, tmp_path: Path
) -> None:
    settings = ("tdm.dim=8", "tdm.max_epochs=2", "tdm.round_epochs=1", "tdm.history=mean")
    small = world(tmp_path / "small", share=0.9, without_item=NEWEST)
    first = train(small, tmp_path / "older", None, *settings, retriever="tdm")
    night = train(newer, tmp_path / "night", tmp_path / "older", *settings, retriever="tdm")
    fit = night.steps["fit:tdm@last"].result
    assert (fit["kept_leaves"], fit["inserted_items"], fit["removed_items"]) == (WORLD.items - 1, 1, 0)
    before, after = (
        ItemTree.open(run.steps["fit:tdm@last"].path / "components" / "tdm" / "tree") for run in (first, night)
    )
    assert np.array_equal(before.leaves, after.leaves[:-1])

    bundle = current(tmp_path / "older" / "bundles")
    nodes = bundle / "components" / "tdm" / "tree" / "node_vectors.npy"
    nodes.write_bytes(nodes.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=f"{nodes}: was altered"):
        start(newer, bundle, "last", tmp_path, "tdm")

"""Training goes from a dataset to a published bundle, and does again only what must be done again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.display import PlainDisplay
from pipelines.presets import PipelineConfig, config_type, load_preset
from pipelines.training import TrainingRun, run_training
from pipelines.training_graph import closure_of_needs
from recsys.bundle.bundle import open_bundle
from recsys.bundle.manifest import read_manifest
from recsys.bundle.publish import current
from recsys.cascade.cascade import CascadeConfig
from recsys.config import override, parse_config
from recsys.errors import ConfigError, DataError, PreconditionError, UsageError
from recsys.recipes import RECIPES
from recsys.testing.planted import Planted, write_planted
from recsys.testing.toy import write_toy

pytestmark = pytest.mark.usefixtures("local_ray")

QUICK = [
    *("two_tower.dim=8", "two_tower.max_epochs=1", "two_tower.blocks=1", "two_tower.history=mean"),
    *("mind.dim=8", "mind.max_epochs=1"),
    *("tdm.dim=8", "tdm.max_epochs=1", "tdm.round_epochs=1", "tdm.history=mean"),
]


@pytest.fixture
def quiet() -> PlainDisplay:
    return PlainDisplay(Console(file=io.StringIO()))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "data").path


def counting(monkeypatch: pytest.MonkeyPatch, *, dies_once: bool = False, **more: tuple[str, ...]) -> PipelineConfig:
    """A configuration whose recipes are `counting` and those of `more`: name → needs."""
    from recipes_for_tests import CountingRecipe

    monkeypatch.setitem(RECIPES, "counting", CountingRecipe(dies_once=dies_once))
    for name, needs in more.items():
        monkeypatch.setitem(RECIPES, name, CountingRecipe(name, needs))
    recipes = ["counting", *more]
    return parse_config(config_type(), {"recipes": recipes, "light": recipes}, "test")


def redone(run: TrainingRun) -> list[str]:
    return [name for name, step in run.steps.items() if not step.cached]


def test_from_a_log_to_a_bundle_and_again_only_what_a_changed_setting_changes(
    tmp_path: Path, quiet: PlainDisplay
) -> None:
    data = write_planted(tmp_path / "data", Planted(users=80, items=40, mean_length=8))
    config = override(load_preset("demo", data), QUICK).replaced(holdouts=["last"], refit=False)
    first = run_training(config, data.path, tmp_path / "run", display=quiet)
    assert redone(first) == [
        "prepare@last",
        "fit:popularity@last",
        "fit:item_knn@last",
        "fit:two_tower@last",
        "fit:mind@last",
        "fit:tdm@last",
        "merge@last",
        "bundle@last",
    ]
    bundle = open_bundle(current(first.bundles))
    assert bundle.version == first.version
    assert set(bundle.channels) == {"popularity", "item_knn", "two_tower", "mind", "tdm"}
    assert bundle.manifest.metrics["two_tower"]["epochs"] == 1
    assert bundle.manifest.cascade.merge is not None
    assert set(bundle.manifest.cascade.merge.log_odds) == set(bundle.channels)

    assert redone(run_training(config, data.path, tmp_path / "run", display=quiet)) == []

    changed = override(config, ["two_tower.dim=16"])
    third = run_training(changed, data.path, tmp_path / "run", display=quiet)
    assert redone(third) == ["fit:two_tower@last", "merge@last", "bundle@last"]
    assert current(first.bundles).name == third.version > first.version

    back = run_training(config, data.path, tmp_path / "run", display=quiet)
    assert redone(back) == []
    assert current(first.bundles).name == first.version


def test_a_refit_takes_its_epochs_from_the_twin_and_names_the_twins(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = counting(monkeypatch)
    holdouts = ["last", "time:0.2"]
    run = run_training(config, toy, tmp_path / "run", display=quiet, holdouts=holdouts, refit=True)
    assert run.steps["fit:counting@all"].result["epochs_given"] == 3
    assert run.steps["fit:counting@all"].result["train"] == 20
    assert run.steps["fit:counting@all"].result["validation"] == 0
    assert run.steps["fit:counting@last"].result["train"] == 12, "four users of three and more give two events each"
    served = read_manifest(current(run.bundles))
    assert served.split.refit
    assert set(served.twins) == {"leave_one_out", "global_time"}
    for protocol, version in served.twins.items():
        twin = read_manifest(run.bundles / version)
        assert twin.split.protocol == protocol
        assert not twin.split.refit
    assert read_manifest(run.bundles / served.twins["global_time"]).split.cut_off_ms is not None


def test_without_a_refit_the_first_hold_out_is_served_and_names_the_others(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = counting(monkeypatch)
    run = run_training(config, toy, tmp_path / "run", display=quiet, holdouts=["last", "time:0.2"])
    served = read_manifest(current(run.bundles))
    assert served.split.holdout == "last"
    assert served.twins == {"global_time": run.twins["global_time"]}


def test_a_refit_merges_by_the_rule_of_its_twin_and_one_channel_needs_none(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = counting(monkeypatch).replaced(recipes=["counting", "item_knn"])
    run = run_training(config, toy, tmp_path / "two", display=quiet, holdouts=["last"], refit=True)
    chosen = CascadeConfig.model_validate(run.steps["merge@last"].result["cascade"])
    assert chosen.merge is not None
    assert set(chosen.merge.log_odds) == {"counting", "item_knn"}
    for version in (run.version, *run.twins.values()):
        assert read_manifest(run.bundles / version).cascade == chosen
    alone = run_training(config.replaced(recipes=["counting"]), toy, tmp_path / "one", display=quiet)
    assert read_manifest(current(alone.bundles)).cascade.merge is None


def test_no_hold_out_chooses_epochs_on_validation_and_serves_a_fit_on_everything(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_training(counting(monkeypatch), toy, tmp_path / "run", display=quiet, holdouts=["none"])
    assert [name for name in run.steps if name.startswith("bundle")] == ["bundle@all"]
    assert run.steps["fit:counting@none"].result["validation"] == 5
    assert run.steps["fit:counting@all"].result["epochs_given"] == 3
    assert run.twins == {}


def test_what_a_twin_tells_a_server_of_its_users_leaves_out_the_test(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_training(counting(monkeypatch), toy, tmp_path / "run", display=quiet, holdouts=["last"], refit=True)
    twin, refit = open_bundle(run.bundles / run.twins["leave_one_out"]), open_bundle(current(run.bundles))
    histories = [bundle.users.lookup(1).history_ids.tolist() for bundle in (twin, refit)]  # type: ignore[union-attr]
    assert histories == [[10, 20, 30], [10, 20, 30, 40]]


def test_a_worker_killed_in_the_middle_of_a_fit_is_replaced_and_resumes(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_training(counting(monkeypatch, dies_once=True), toy, tmp_path / "run", display=quiet)
    assert run.steps["fit:counting@last"].result["attempt"] == 2
    assert not list((tmp_path / "run" / ".work").rglob("attempts")), "a finished step leaves no scratch"


def test_what_a_recipe_needs_is_fitted_before_it_and_handed_to_it(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = counting(monkeypatch, ranker=("counting",))
    run = run_training(config, toy, tmp_path / "run", display=quiet, only=["ranker"])
    assert [name for name in run.steps if name.startswith("fit")] == ["fit:counting@last", "fit:ranker@last"]
    assert run.steps["fit:ranker@last"].result["inputs"] == 1


def test_recipes_that_need_each_other_in_a_circle_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    counting(monkeypatch, egg=("hen",), hen=("egg",))
    with pytest.raises(ConfigError, match="in a circle: egg → hen → egg"):
        closure_of_needs(["egg"])


def test_not_to_publish_leaves_what_is_served(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = counting(monkeypatch)
    first = run_training(config, toy, tmp_path / "run", display=quiet)
    changed = override(config, ["counting.scale=2"])
    second = run_training(changed, toy, tmp_path / "run", display=quiet, publish_it=False)
    assert second.version != first.version
    assert not second.published
    assert current(first.bundles).name == first.version


def test_a_bundle_that_was_deleted_is_assembled_again(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    config = counting(monkeypatch)
    first = run_training(config, toy, tmp_path / "run", display=quiet)
    shutil.rmtree(first.bundles / first.version)
    assert redone(run_training(config, toy, tmp_path / "run", display=quiet)) == ["bundle@last"]


def test_the_record_of_a_run_says_what_was_done_and_with_what(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_training(counting(monkeypatch), toy, tmp_path / "run", display=quiet)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["version"] == run.version
    assert record["config"]["counting"] == {"scale": 1.0}
    assert list(record["steps"]) == list(run.steps)
    fit = record["steps"]["fit:counting@last"]
    assert fit["cached"] is False
    assert fit["seconds"] >= 0
    assert fit["result"]["train"] == 12
    assert record["metrics"]["counting@last"]["train"] == 12
    assert record["seconds"] >= fit["seconds"]


def test_runs_that_cannot_be_are_refused_before_anything_is_started(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = counting(monkeypatch), tmp_path / "run"
    with pytest.raises(DataError, match="does not exist"):
        run_training(config, tmp_path / "nowhere", out, display=quiet)
    with pytest.raises(ConfigError, match="'nearest': there is no such recipe; there are: popularity"):
        run_training(config, toy, out, display=quiet, only=["nearest"])
    with pytest.raises(UsageError, match="--holdout sometimes"):
        run_training(config, toy, out, display=quiet, holdouts=["sometimes"])
    with pytest.raises(UsageError, match="one hold-out a protocol"):
        run_training(config, toy, out, display=quiet, holdouts=["time:0.1", "time:0.2"])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written to"):
        run_training(config, toy, tmp_path / "file" / "run", display=quiet)
    assert not out.exists()


def test_two_runs_into_one_directory_are_refused(
    tmp_path: Path, toy: Path, quiet: PlainDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(PreconditionError, match="another training run is writing there"):
            run_training(counting(monkeypatch), toy, tmp_path / "run", display=quiet)

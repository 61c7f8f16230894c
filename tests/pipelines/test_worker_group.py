"""A fit by several workers of Ray Train: the curve of one, begun again from the checkpoint when processes die."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from pipelines.display import PlainDisplay
from pipelines.presets import PipelineConfig, load_preset
from pipelines.toml_text import to_toml
from pipelines.training import TrainingRun, run_training
from recsys.config import override
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError, UsageError
from recsys.testing.planted import Planted, write_planted

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.slow]

EPOCHS = 12
SETTINGS = ["two_tower.dim=16", "two_tower.blocks=1", "two_tower.precision=float32"]
SETTINGS += ["two_tower.dropout=0", "two_tower.id_dropout=0"]  # each worker draws others
LENGTH = [f"two_tower.max_epochs={EPOCHS}", f"two_tower.patience={EPOCHS}", "two_tower.batch_users=16"]
DIED = "a worker died; all start again from the last checkpoint"
PATIENCE = 90.0
"""Seconds after which a test gives up waiting for what takes a few."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    world = Planted(users=400, items=120, clusters=4, mean_length=15)
    return write_planted(tmp_path_factory.mktemp("planted") / "data", world)


def configured(data: Dataset, *more: str) -> PipelineConfig:
    config = override(load_preset("auto", data), [*SETTINGS, *LENGTH, *more])
    return config.replaced(holdouts=["last"], refit=False, recipes=["two_tower"])


def trained(data: Dataset, out: Path, *more: str, **arguments: Any) -> TrainingRun:
    display = PlainDisplay(Console(file=io.StringIO()))
    return run_training(configured(data, *more), data.path, out, display=display, **arguments)


def losses(run: TrainingRun) -> list[float]:
    record = run.steps["fit:two_tower@last"].path / "components" / "two_tower" / "training.json"
    return [epoch["loss"] for epoch in json.loads(record.read_text())["curve"]]


def told(out: Path) -> list[dict[str, Any]]:
    """What the fit under way has told so far."""
    files = list(out.glob(".work/fit*/*/progress.jsonl"))
    return [json.loads(line) for line in files[0].read_text().splitlines()] if files else []


def epochs(out: Path) -> int:
    """The last epoch that the fit under way has told."""
    return max((line["done"] for line in told(out) if line["message"] == "epoch"), default=0)


def train_workers(above: psutil.Process) -> list[psutil.Process]:
    """The processes of Ray Train's workers below a process."""
    return [p for p in above.children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def epochs_gone_back(out: Path) -> int:
    """Waits until a group has begun again, and how far the first epoch it then tells is behind the last before."""
    eventually(lambda: DIED in [line["message"] for line in told(out)])
    lines = told(out)
    before = max(line["done"] for line in lines if line["message"] == "epoch")
    eventually(lambda: len(told(out)) > len(lines))
    return before + 1 - int(told(out)[len(lines)]["done"])


def test_two_workers_learn_what_one_learns_though_one_of_them_is_killed_midway(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "two"

    def kill_one() -> int:
        eventually(lambda: epochs(out) >= 2)
        _, second = train_workers(psutil.Process())
        second.kill()
        return epochs_gone_back(out)

    with ThreadPoolExecutor() as killer:
        gone_back = killer.submit(kill_one)
        two = trained(data, out, workers=2)
    assert gone_back.result() <= 0
    assert losses(two) == pytest.approx(losses(trained(data, tmp_path / "one")), rel=1e-3)


def test_a_mistake_of_the_user_that_a_worker_finds_is_told_as_it_is(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^two_tower\.heads = 3: must divide dim = 16$"):
        trained(data, tmp_path / "run", "two_tower.heads=3", workers=2)


def test_more_workers_than_cpus_are_refused_before_anything_is_done(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--workers 8: the cluster has 2 CPUs"):
        trained(data, tmp_path / "run", workers=8)
    assert not (tmp_path / "run" / "steps").exists()


class Nodes:
    """A cluster of two nodes on this machine, and `recsys train` on it, as processes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        sizes = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
        quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
        self.cluster = Cluster(initialize_head=True, connect=False, head_node_args={**sizes, "_system_config": quick})
        self.second = self.cluster.add_node(num_cpus=2, object_store_memory=80 << 20)

    def raylets(self) -> list[psutil.Process]:
        """Of both nodes."""
        return [
            psutil.Process(info.process.pid)
            for node in self.cluster.list_all_nodes()
            for info in node.all_processes["raylet"]
        ]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.cluster.shutdown()


def test_a_run_on_two_nodes_survives_the_loss_of_its_driver_and_of_a_node(
    data: Dataset, tmp_path: Path, nodes: Nodes
) -> None:
    out = tmp_path / "run"
    (tmp_path / "config.toml").write_text(to_toml(configured(data).model_dump(mode="json")))
    command = [sys.executable, "-m", "services.cli.main", "train", "--preset", str(tmp_path / "config.toml")]
    command += ["--data", str(data.path), "--out", str(out), "--workers", "2", "--address", nodes.cluster.address]

    first = subprocess.Popen(command)
    eventually(lambda: epochs(out) >= 1)
    assert [len(train_workers(raylet)) for raylet in nodes.raylets()] == [1, 1], "a worker on each node"
    first.kill()
    first.wait()
    done = epochs(out)

    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    eventually(lambda: epochs(out) > done)
    nodes.cluster.remove_node(nodes.second, allow_graceful=False)
    assert epochs_gone_back(out) <= 0
    said, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
    assert "fit:two_tower@last: done in" in said

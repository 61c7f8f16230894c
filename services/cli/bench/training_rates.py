"""Training rates: this trainer and torch-rechub's, stepping in turns over the same data."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.prepared import Prepared, prepare
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout
from recsys.errors import TrainingError
from recsys.features.auto import infer_definition
from recsys.features.definition import FeatureDefinition
from recsys.features.feature_set import Field
from recsys.recipes.two_tower import TwoTowerConfig, build_model
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.train.device import bf16_products
from recsys.train.frequency import CountedFrequency
from recsys.train.memory import keep_freed_memory
from recsys.train.objective import NextItemObjective
from recsys.train.progress import QuietProgress
from recsys.train.trainer import Trainer
from recsys.train.view import TrainView

Stepper: TypeAlias = Iterator[int]
"""Does one training step whenever it is asked and gives the number of samples in it."""

OURS, OURS_BF16 = "ours, float32", "ours, bf16 products"

_WARM_UP = 5
_PEER_ROWS = 200_000
_STOCK, _REPAIRED = "torch-rechub DSSM, stock loader", "torch-rechub DSSM, loader repaired"


@dataclass(frozen=True, slots=True)
class Workload:
    """What all trainers are given.

    Attributes:
        prepared: a folder that `prepared` made from a dataset.
        batch: targets a step.
        dim: width of embeddings and output; hidden layers are (2·dim, dim) in every tower.
        history: items pooled.
        negatives: columns of our in-batch softmax.
        threads: of torch.
        peer: folder that torch-rechub was installed into, when it is not on the path already.
    """

    prepared: Path
    batch: int
    dim: int
    history: int
    negatives: int
    threads: int
    peer: Path | None

    def view(self) -> TrainView:
        """The data as a recipe gets it."""
        return Prepared.open(self.prepared).view(seed=0, threads=self.threads, device="cpu")


@contextlib.contextmanager
def prepared(data: Path, history: int) -> Iterator[Path]:
    """A dataset, split and encoded with histories of so many items, in a folder that is removed at the end."""
    dataset = Dataset.open(data)
    features = tuple(
        f.model_copy(update={"length": history}) if f.kind == "history" else f
        for f in infer_definition(dataset).features
    )
    with tempfile.TemporaryDirectory() as folder:
        prepare(dataset, Holdout.parse("last"), FeatureDefinition(features=features), Path(folder), everything=False)
        yield Path(folder)


def measure(workload: Workload, *, seconds: float, rounds: int) -> dict[str, Any]:
    """Samples a second of each trainer, each in a process of its own: median and all rounds.

    The trainers take turns, so that what else the machine does meets all of them alike. The peer takes part where
    it can be imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a trainer that waits must not spin beside the one that runs
    found: dict[str, list[float]] = {}
    with contextlib.ExitStack() as running:
        trainers = {name: running.enter_context(_Runner(name, workload)) for name in _trainers(workload)}
        for _ in range(rounds):
            for name, trainer in trainers.items():
                found.setdefault(name, []).append(trainer.rate(seconds))
    return {"samples_per_s": {name: statistics.median(rates) for name, rates in found.items()}, "rounds": found}


def _trainers(workload: Workload) -> list[str]:
    if workload.peer is not None:
        sys.path.append(str(workload.peer))
    ours = [OURS, OURS_BF16] if bf16_products("auto", "cpu") else [OURS]
    return [*ours, *([_STOCK, _REPAIRED] if importlib.util.find_spec("torch_rechub") else [])]


class _Runner:
    """A process that trains when asked to."""

    def __init__(self, name: str, workload: Workload) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve_rates, args=(name, workload, there), daemon=True)

    def __enter__(self) -> _Runner:
        self._process.start()
        self._receive()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._here.send(None)
        self._process.join()

    def rate(self, seconds: float) -> float:
        """Samples a second over so many seconds.

        Raises:
            TrainingError: when the process ended.
        """
        self._here.send(seconds)
        return self._receive()

    def _receive(self) -> float:
        while not self._here.poll(1.0):
            if not self._process.is_alive():
                raise TrainingError(f"a measuring process ended with code {self._process.exitcode}, its error is above")
        return float(self._here.recv())


def _serve_rates(name: str, workload: Workload, requests: Any) -> None:
    """What a runner's process does: answers seconds with a rate, until it is sent None."""
    torch.set_num_threads(workload.threads)
    if workload.peer is not None:
        sys.path.append(str(workload.peer))
    stepper = _stepper(name, workload)
    for _ in range(_WARM_UP):
        next(stepper)
    requests.send(0.0)  # warm: the next may start, and then the rounds
    while (seconds := requests.recv()) is not None:
        samples, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            samples += next(stepper)
        requests.send(samples / (time.perf_counter() - began))


def _stepper(name: str, workload: Workload) -> Stepper:
    if name in (OURS, OURS_BF16):
        return ours(workload, "auto" if name == OURS_BF16 else "float32")
    return peer(workload, stock_batches if name == _STOCK else sliced_batches)


def ours(workload: Workload, precision: Literal["float32", "auto"]) -> Stepper:
    """Steps of this project's trainer: SENet towers, mean-pooled history, corrected in-batch softmax."""
    keep_freed_memory()
    view = workload.view()
    settings = {"dim": workload.dim, "history": "mean", "similarity": "cosine", "dropout": 0.0, "precision": precision}
    config = TwoTowerConfig.model_validate(settings)
    model = build_model(config, view)
    windows = np.minimum(view.train.lengths, workload.history + 1)
    source = SequenceSource(
        view.train,
        {field.name: view.users[field.name] for field in model.shape.user_fields},
        len(view.catalogue),
        SequenceSampling(
            batch_users=max(1, round(workload.batch / windows.mean())),
            length=workload.history,
            in_batch=workload.negatives,
        ),
    )
    bf16 = bf16_products(precision, "cpu")
    objective = NextItemObjective(model, CountedFrequency(torch.from_numpy(source.shares())), bf16=bf16)
    trainer = Trainer(model, objective, source, config, QuietProgress(Path(tempfile.gettempdir())))
    model.train()
    for epoch in itertools.count():
        for batch in source.epoch(epoch):
            trainer.step(batch)
            yield batch.samples


Rows: TypeAlias = dict[str, NDArray[Any]]


def attributes(view: TrainView, side: Literal["user", "item"]) -> tuple[Field, ...]:
    """The attribute fields of a side, which all trainers use beside item id and history."""
    return tuple(field for field in view.features.fields(side) if field.kind not in ("id", "history"))


def peer_rows(workload: Workload) -> Rows:
    """One row a target as torch-rechub takes them: attributes, the item, and its history padded to full length."""
    view = workload.view()
    rng = np.random.default_rng(0)
    user = view.train.user_of()
    chosen = rng.permutation(view.train.size)[:_PEER_ROWS]
    place = chosen - view.train.offsets[user[chosen]]
    at = chosen[:, None] - np.arange(workload.history, 0, -1)
    there = np.arange(workload.history, 0, -1) <= place[:, None]
    rows = view.train.rows[chosen]
    columns: Rows = {
        "history": np.where(there, view.encoder.item_index[view.train.rows[np.maximum(at, 0)]], 0).astype(np.int64),
        "item_id": view.encoder.item_index[rows].astype(np.int64),
    }
    columns |= {f.name: np.asarray(view.items[f.name])[rows].astype(np.int64) for f in attributes(view, "item")}
    columns |= {f.name: np.asarray(view.users[f.name])[user[chosen]].astype(np.int64) for f in attributes(view, "user")}
    return columns


def stock_batches(rows: Rows, batch: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """The loader that torch-rechub makes: one dictionary a row, collated. No workers: its fastest on few cores."""
    generator = importlib.import_module("torch_rechub.utils.data").MatchDataGenerator(x=rows, y=_labels(rows))
    loader, _, _ = generator.generate_dataloader({"item_id": rows["item_id"]}, rows, batch_size=batch, num_workers=0)
    while True:
        yield from loader


def sliced_batches(rows: Rows, batch: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """The same batches cut from the columns at once: what its trainer could do with a better loader."""
    rng, labels = np.random.default_rng(0), torch.from_numpy(_labels(rows))
    columns = {name: torch.from_numpy(column) for name, column in rows.items()}
    while True:
        order = torch.from_numpy(rng.permutation(len(labels)))
        for chosen in torch.split(order, batch):
            yield {name: column[chosen] for name, column in columns.items()}, labels[chosen]


def peer(
    workload: Workload,
    batches: Callable[[Rows, int], Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]],
) -> Stepper:
    """Steps of torch-rechub's own training loop over DSSM."""
    matching = importlib.import_module("torch_rechub.models.matching")
    trainers = importlib.import_module("torch_rechub.trainers")
    hidden = {"dims": [2 * workload.dim, workload.dim], "activation": "relu"}
    user, item = _peer_features(workload)
    trainer = trainers.MatchTrainer(matching.DSSM(user, item, hidden, hidden), mode=0, device="cpu")
    for x, y in batches(peer_rows(workload), workload.batch):
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            trainer.train_one_epoch([(x, y)])
        yield len(y)


def _peer_features(workload: Workload) -> tuple[list[Any], list[Any]]:
    """User and item features; the history shares the table of the item id, as ours does."""
    features = importlib.import_module("torch_rechub.basic.features")
    view = workload.view()
    history = view.features.history
    if history is None:
        raise RuntimeError("the benchmark's features have a history by construction")

    def of(field: Field) -> Any:
        kind = features.SequenceFeature if field.kind == "list" else features.SparseFeature
        extra: Mapping[str, Any] = {"pooling": "mean", "padding_idx": 0} if field.kind == "list" else {}
        return kind(field.name, vocab_size=field.cardinality, embed_dim=workload.dim, **extra)

    item_id = features.SparseFeature("item_id", vocab_size=history.cardinality, embed_dim=workload.dim)
    pooled = features.SequenceFeature(
        "history", history.cardinality, workload.dim, pooling="mean", shared_with="item_id", padding_idx=0
    )
    return [pooled, *map(of, attributes(view, "user"))], [item_id, *map(of, attributes(view, "item"))]


def _labels(rows: Rows) -> NDArray[np.int64]:
    """One positive in four, as in the peer's example; the rate does not depend on which."""
    labels: NDArray[np.int64] = (np.arange(len(rows["item_id"])) % 4 == 0).astype(np.int64)
    return labels

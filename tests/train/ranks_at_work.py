"""What the workers of test_ranks.py do, in a module that they can import."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from recsys.data.interactions import Interactions
from recsys.index.item_tree import ItemTree
from recsys.index.tree_building import at_random
from recsys.models.mind import Mind, MindShape
from recsys.models.retriever import Retriever
from recsys.models.sequence_batch import SequenceBatch
from recsys.models.tdm import Tdm
from recsys.models.two_tower import TwoTower, TwoTowerShape
from recsys.recipes.tdm import TdmRecipe
from recsys.recipes.tdm_config import TdmConfig
from recsys.recipes.tdm_trees import learn_anew
from recsys.testing.planted import Planted
from recsys.testing.planted_view import planted_view
from recsys.train.batches import SequenceSampling, SequenceSource
from recsys.train.beam_objective import BeamObjective
from recsys.train.config import TrainerConfig, TrainingResult
from recsys.train.frequency import CountedFrequency, StreamingFrequency
from recsys.train.hard_negatives import HardNegatives
from recsys.train.negative_memory import NegativeMemory
from recsys.train.objective import NextItemObjective
from recsys.train.progress import QuietProgress
from recsys.train.ranks import Ranks, joined_ranks
from recsys.train.trainer import Trainer
from recsys.train.tree_objective import TreeObjective
from recsys.types import offsets_of

ITEMS = 30


class KilledError(Exception):
    pass


def serve(rank: int, world: int, meeting: Path, requests: Connection) -> None:
    """Joins a group, then answers (function, arguments) with what it returns or raises."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    while (request := requests.recv()) is not None:
        work, arguments = request
        try:
            requests.send(work(joined_ranks(), *arguments))
        except Exception as error:  # whatever it is, the test is told
            requests.send(error)
    distributed.destroy_process_group()


def interactions(users: int) -> Interactions:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, users)
    rows = rng.integers(0, ITEMS, lengths.sum()).astype(np.int32)
    return Interactions(np.arange(users, dtype=np.int64), offsets_of(lengths), rows, np.zeros(len(rows), np.int64))


def trainer(ranks: Ranks, scratch: Path, settings: dict[str, Any]) -> Trainer[SequenceBatch]:
    """A small retriever and its trainer; `settings` are the trainer's, and some of the model and of the batches."""
    settings = {"precision": "float32", "lr": 0.02, **settings}
    tree = settings.pop("tree", None)
    sizes = {"in_batch": 16, "uniform": 8} if settings.pop("sampled", False) else {}
    if settings.pop("mined", False):
        sizes |= {"in_batch": 16, "mined": 3, "mined_ranks": (2, 9)}
    places = settings.pop("places", 1.0)
    sampling = SequenceSampling(batch_users=settings.pop("batch_users", 8), length=10, places=places, **sizes)
    torch.manual_seed(0)
    model = retriever(settings)
    source = SequenceSource(interactions(settings.pop("users", 42)), {}, ITEMS, sampling, ranks)
    if tree is not None:
        assert isinstance(model, TwoTower)
        return tree_trainer(ranks, scratch, model, source, settings, beam=tree == "beam")
    memory, hard = None, None
    if sampling.mined:
        memory, hard = NegativeMemory(3, ranks=ranks), HardNegatives(model.items, 4, 9, ranks=ranks)
    frequency = CountedFrequency(torch.from_numpy(source.shares()))
    objective = NextItemObjective(model, frequency, memory=memory, hard=hard)
    validate = None
    if settings.pop("validate", False):
        validate = lambda: {"ndcg@10": ranks.sum([model.log_scale.item()])[0]}  # noqa: E731
    config = TrainerConfig.model_validate(settings)
    return Trainer(model, objective, source, config, QuietProgress(scratch), validate, ranks=ranks, also=objective)


def tree_trainer(
    ranks: Ranks,
    scratch: Path,
    users: TwoTower,
    source: SequenceSource,
    settings: dict[str, Any],
    *,
    beam: bool,
) -> Trainer[SequenceBatch]:
    """As `trainer`, of a tree over the items; levels whole, or what a beam meets."""
    model = Tdm(users, at_random(ITEMS, slack=0.1), attended=5)
    objective = BeamObjective(model, 4, ranks=ranks) if beam else TreeObjective(model)
    config = TrainerConfig.model_validate(settings)
    return Trainer(model, objective, source, config, QuietProgress(scratch), ranks=ranks)


def retriever(settings: dict[str, Any]) -> Retriever:
    """A two-tower, or MIND where `settings` ask for interests."""
    common: dict[str, Any] = {
        "item_codes": ITEMS + 2,
        "dim": 8,
        "history_length": 10,
        "dropout": settings.pop("dropout", 0.0),
    }
    recompute, interests = settings.pop("recompute", False), settings.pop("interests", 0)
    if interests:
        return Mind(MindShape(**common, interests=interests), torch.arange(ITEMS) + 2, {})
    shape = TwoTowerShape(**common, blocks=1, heads=2, recompute=recompute)
    return TwoTower(shape, torch.arange(ITEMS) + 2, {})


def gradients(ranks: Ranks, scratch: Path, settings: dict[str, Any]) -> dict[str, Tensor]:
    """The gradients of the first step of an epoch, by parameter."""
    run = trainer(ranks, scratch, {"clip": 1e9, **settings})
    batches: Iterator[SequenceBatch] = run.source.epoch(0)
    run.model.train()
    run.step(*(next(batches) for _ in range(run.config.accumulate)))
    held = {name: weight.grad for name, weight in run.optimiser.parameters.items()}
    return {name: grad.to_dense() if grad.is_sparse else grad for name, grad in held.items() if grad is not None}


def fitted(
    ranks: Ranks, scratch: Path, settings: dict[str, Any], killed_at: int = 0
) -> tuple[TrainingResult, dict[str, Tensor]]:
    """What a fit ends with, and its weights; where asked to, every worker is killed at a step."""
    run = trainer(ranks, scratch, settings)
    torch.manual_seed(1)
    step, steps = run.step, 0

    def counted(*batches: SequenceBatch) -> float:
        nonlocal steps
        steps += 1
        if steps == killed_at:
            raise KilledError
        return step(*batches)

    run.step = counted  # type: ignore[method-assign]
    result = run.fit()
    return result, {name: weight.detach().clone() for name, weight in run.optimiser.parameters.items()}


def first_random_numbers(ranks: Ranks, scratch: Path) -> Tensor:
    """What a worker draws once a fit has begun."""
    run = trainer(ranks, scratch, {"max_epochs": 1})
    torch.manual_seed(1)
    drawn: list[Tensor] = []
    step = run.step

    def drawing(*batches: SequenceBatch) -> float:
        drawn.append(torch.rand(5))
        return step(*batches)

    run.step = drawing  # type: ignore[method-assign]
    run.fit()
    return drawn[0]


def apart(ranks: Ranks, scratch: Path, settings: dict[str, Any], rank: int) -> TrainingResult:
    """A fit in which one worker sees another directory of checkpoints."""
    return trainer(ranks, scratch / "own" if ranks.rank == rank else scratch, settings).fit()


def with_no_number(ranks: Ranks, scratch: Path, settings: dict[str, Any], rank: int) -> TrainingResult:
    """A fit in which the loss of one worker is no number."""
    run = trainer(ranks, scratch, settings)
    if ranks.rank == rank:
        with torch.no_grad():
            run.model.get_parameter("items.bias.weight").fill_(torch.nan)
    return run.fit()


def observed(ranks: Ranks, parts: list[Tensor]) -> dict[str, Tensor]:
    """A streamed frequency after each worker has been shown its part; alone, all parts one after the other."""
    frequency = StreamingFrequency(64, ranks=ranks)
    for _ in range(3):
        frequency.observe(parts[ranks.rank] if ranks.world > 1 else torch.cat(parts))
    return frequency.tensors()


def tdm_fitted(ranks: Ranks, folder: Path, settings: dict[str, Any], start: Path | None = None) -> dict[str, float]:
    """A TDM fitted on a planted world, over a catalogue with an item more where it starts warm; leaves a bundle."""
    world = Planted(users=60, items=ITEMS, clusters=2, mean_length=8)
    data = folder / f"data_of_{ranks.rank}"
    view = planted_view(data, world, without=() if start else (105,))
    config = TdmConfig.model_validate({**_TDM, **settings})
    out, scratch = folder / "out", folder / "scratch"
    scratch.mkdir(exist_ok=True)
    metrics = TdmRecipe().fit(config, replace(view, ranks=ranks, start=start), {}, out, QuietProgress(scratch))
    if ranks.leads:
        view.features.save(out / "features")
        view.catalogue.save(out)
    ranks.wait()
    return metrics


_TDM: dict[str, Any] = {
    "dim": 8,
    "heads": 1,
    "history": "recency",
    "dropout": 0.0,
    "precision": "float32",
    "lr": 0.01,
    "batch_users": 8,
    "rounds": 2,
    "round_epochs": 2,
    "slack": 0.2,
    "relearning": "likelihood",
    "tree": "random",
}


def learned_anew_apart(ranks: Ranks, folder: Path) -> ItemTree:
    """The tree that workers learn anew out of weights of which each has its own."""
    view = planted_view(folder / f"data_of_{ranks.rank}", Planted(users=20, items=ITEMS, clusters=2, mean_length=8))
    config = TdmConfig.model_validate({**_TDM, "relearning": "clusters"})
    torch.manual_seed(ranks.rank)
    towers = TwoTower(TwoTowerShape(ITEMS + 2, dim=8, history="mean"), torch.arange(ITEMS) + 2, {})
    model = Tdm(towers, at_random(ITEMS))
    learn_anew(model, config, replace(view, ranks=ranks))
    return model.tree.held

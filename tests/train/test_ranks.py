"""Several workers take the steps that one would take: real processes in a gloo group."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.errors import TrainingError
from recsys.train.ranks import ALONE, Ranks, joined_ranks

Together = Callable[..., list[Any]]
"""A function of ranks_at_work and its arguments to what each of two workers returned."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    context = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.syspath_prepend(Path(__file__).parent)
        from ranks_at_work import serve

        meeting = tmp_path_factory.mktemp("group") / "meeting"
        pipes = [context.Pipe() for _ in range(2)]
        for rank, (_, there) in enumerate(pipes):
            process = context.Process(target=serve, args=(rank, 2, meeting, there), daemon=True)
            process.start()
            stack.callback(process.join)
        for here, _ in pipes:
            stack.callback(here.send, None)

        def ask(work: Callable[..., Any], *arguments: Any) -> list[Any]:
            for here, _ in pipes:
                here.send((work, arguments))
            return [here.recv() for here, _ in pipes]

        yield ask


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_who_has_joined_no_group_is_alone() -> None:
    assert joined_ranks() == ALONE
    assert ALONE.leads
    assert ALONE.sum([1.5]) == ALONE.from_leader([1.5]) == [1.5]


def test_sparse_gradients_are_added_by_gloo_and_not_by_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    assert Ranks(0, 2).adds_sparse
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    assert not Ranks(0, 2).adds_sparse
    assert ALONE.adds_sparse


@pytest.mark.parametrize("tables", ["dense", "rowwise"])
@pytest.mark.parametrize(
    "more",
    [
        *({}, {"sampled": True}, {"accumulate": 3}, {"accumulate": 3, "mined": True}, {"recompute": True}),
        *({"interests": 3}, {"interests": 3, "mined": True}, {"interests": 2, "places": 0.2, "accumulate": 3}),
        *({"tree": "levels"}, {"tree": "levels", "places": 0.4, "accumulate": 3}, {"tree": "beam", "accumulate": 2}),
    ],
    ids=str,
)
def test_gradients_of_two_workers_are_those_of_one_on_the_whole_batch(
    together: Together, tmp_path: Path, tables: str, more: dict[str, Any]
) -> None:
    from ranks_at_work import gradients

    settings = {"table_optimiser": tables, **more}
    whole = gradients(ALONE, tmp_path, dict(settings))
    shares = together(gradients, tmp_path, settings)
    assert equal(*shares)
    assert whole.keys() == shares[0].keys()
    assert max(float((whole[name] - shares[0][name]).abs().max()) for name in whole) <= 1e-6


@pytest.mark.parametrize("more", [{}, {"tree": "levels"}, {"tree": "beam"}], ids=str)
def test_a_batch_of_fewer_sequences_than_workers_is_learned_from_once(
    together: Together, tmp_path: Path, more: dict[str, Any]
) -> None:
    from ranks_at_work import fitted

    settings = {"users": 9, "batch_users": 4, "max_epochs": 3, **more}
    whole, _ = fitted(ALONE, tmp_path / "one", dict(settings))
    (shared, _), _ = together(fitted, tmp_path / "two", settings)
    assert [r.loss for r in shared.curve] == pytest.approx([r.loss for r in whole.curve], rel=1e-5)


def test_the_loss_curve_of_two_workers_is_that_of_one(together: Together, tmp_path: Path) -> None:
    from ranks_at_work import fitted

    settings = {"max_epochs": 6, "ema": 0.9, "sampled": True, "validate": True}
    whole, weights = fitted(ALONE, tmp_path / "one", dict(settings))
    (shared, of_first), (_, of_second) = together(fitted, tmp_path / "two", settings)
    assert [r.loss for r in shared.curve] == pytest.approx([r.loss for r in whole.curve], rel=1e-4)
    assert [r.lr for r in shared.curve] == [r.lr for r in whole.curve]
    assert equal(of_first, of_second)
    assert max(float((weights[name] - of_first[name]).abs().max()) for name in weights) < 0.01


@pytest.mark.parametrize("more", [{}, {"table_optimiser": "rowwise"}, {"mined": True}], ids=str)
def test_two_workers_killed_within_an_epoch_go_on_to_the_bit(
    together: Together, tmp_path: Path, more: dict[str, Any]
) -> None:
    from ranks_at_work import KilledError, fitted

    settings = {"max_epochs": 4, "ema": 0.9, "dropout": 0.3, "checkpoint_s": 1e-9, "table_optimiser": "dense", **more}
    whole = together(fitted, tmp_path / "whole", settings)
    killed = together(fitted, tmp_path / "parts", settings, 15)
    assert all(isinstance(error, KilledError) for error in killed)
    resumed = together(fitted, tmp_path / "parts", settings)
    for (_, weights), (result, again) in zip(whole, resumed, strict=True):
        assert equal(weights, again)
        assert [record.epoch for record in result.curve] == [1, 2, 3, 4]


def test_a_run_of_two_workers_can_be_finished_by_one(together: Together, tmp_path: Path) -> None:
    from ranks_at_work import fitted

    settings = {"max_epochs": 4, "checkpoint_s": 1e-9}
    whole, _ = fitted(ALONE, tmp_path / "whole", dict(settings))
    together(fitted, tmp_path / "parts", settings, 15)
    resumed, _ = fitted(ALONE, tmp_path / "parts", dict(settings))
    assert [r.loss for r in resumed.curve] == pytest.approx([r.loss for r in whole.curve], rel=1e-4)


def test_each_worker_drops_out_numbers_of_its_own(together: Together, tmp_path: Path) -> None:
    from ranks_at_work import first_random_numbers

    assert not torch.equal(*together(first_random_numbers, tmp_path))


def test_a_loss_that_is_no_number_on_one_worker_ends_all_with_the_same_sentence(
    together: Together, tmp_path: Path
) -> None:
    from ranks_at_work import with_no_number

    errors = together(with_no_number, tmp_path, {"max_epochs": 2}, 1)
    assert all(isinstance(error, TrainingError) for error in errors)
    assert "the loss is nan at epoch 1, step 1" in str(errors[0])
    assert str(errors[0]) == str(errors[1])


def test_workers_that_see_other_checkpoints_say_that_the_directory_must_be_shared(
    together: Together, tmp_path: Path
) -> None:
    from ranks_at_work import KilledError, apart, fitted

    settings = {"max_epochs": 3, "checkpoint_s": 1e-9}
    assert isinstance(together(fitted, tmp_path, settings, 8)[0], KilledError)
    errors = together(apart, tmp_path, settings, 1)
    assert all(isinstance(error, TrainingError) and "must share the directory" in str(error) for error in errors)


def test_a_streamed_frequency_learns_from_the_targets_of_all_workers(together: Together) -> None:
    from ranks_at_work import observed

    parts = [torch.tensor([3, 5, 3, 9, 9, 9]), torch.tensor([3, 20, 5, 1])]  # shares of unequal size
    one, two = together(observed, parts)
    assert equal(one, two)
    assert equal(one, observed(ALONE, parts))
    assert int(one["time"]) == 30


def test_a_tdm_of_two_workers_is_that_of_one_from_scratch_and_warm(together: Together, tmp_path: Path) -> None:
    from ranks_at_work import tdm_fitted

    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, one / "warm", two, two / "warm"):
        folder.mkdir()
    whole = tdm_fitted(ALONE, one, {})
    shared, nothing = together(tdm_fitted, two, {})
    assert nothing == {}  # the leader alone writes and tells
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-4)
    assert losses(two)[1] == pytest.approx(losses(one)[1], rel=0.02)  # a rounding can put an item into another leaf
    assert shared["validation_hr@10"] == pytest.approx(whole["validation_hr@10"], abs=0.05)

    night = {"loss": "beam", "training_beam": 4, "rounds": 1}
    tdm_fitted(ALONE, one / "warm", night, two / "out")
    went_on, _ = together(tdm_fitted, two / "warm", night, two / "out")
    assert (went_on["kept_leaves"], went_on["inserted_items"]) == (29, 1)
    assert losses(two / "warm") == pytest.approx(losses(one / "warm"), rel=1e-4)


def losses(fitted: Path) -> list[float]:
    """Of the one epoch of each round."""
    record = json.loads((fitted / "out" / "components" / "tdm" / "training.json").read_text())
    return [epoch["loss"] for one in record["rounds"] for epoch in one["curve"]]


def test_a_tree_learned_anew_is_the_leaders(together: Together, tmp_path: Path) -> None:
    from ranks_at_work import learned_anew_apart

    first, second = together(learned_anew_apart, tmp_path)
    own = learned_anew_apart(ALONE, tmp_path)
    assert first.rows.tolist() == second.rows.tolist() == own.rows.tolist()

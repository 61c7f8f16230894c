"""Several workers seen from the trainer: which one this is, and what all of them agree on (torch.distributed)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, slots=True)
class Ranks:
    """A worker's place among those that train one model; alone, every method gives back what it was given.

    All methods are collective: every worker calls them, in the same order.

    Attributes:
        rank: 0 … world - 1; rank 0 leads: it alone writes files.
        world: number of workers.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.rank == 0

    @property
    def adds_sparse(self) -> bool:
        """Whether sparse gradients can be averaged: gloo does it, NCCL does not."""
        return self.world == 1 or distributed.get_backend() != "nccl"

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum over all workers of each value, the same bits everywhere; float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=_device())
        distributed.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def from_leader(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values, on every worker."""
        if self.world == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=_device())
        distributed.broadcast(told, src=0)
        return [float(value) for value in told.tolist()]

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The named tensors of all workers by rank, on the CPU; those of a name have one shape and type."""
        if self.world == 1:
            return [dict(tensors)]
        gathered: list[dict[str, Tensor]] = [{} for _ in range(self.world)]
        for name, tensor in tensors.items():
            own = tensor.to(_device())
            parts = [torch.empty_like(own) for _ in gathered]
            distributed.all_gather(parts, own)
            for known, part in zip(gathered, parts, strict=True):
                known[name] = part.cpu()
        return gathered

    def concatenated(self, values: Tensor) -> Tensor:
        """The values (n,) of all workers, those of rank 0 first, where `values` are; n may differ."""
        if self.world == 1:
            return values
        counts = [int(part["n"]) for part in self.gather({"n": torch.tensor(len(values))})]
        padded = values.new_zeros(max(counts))
        padded[: len(values)] = values
        parts = self.gather({"values": padded})
        return torch.cat([part["values"][:n] for part, n in zip(parts, counts, strict=True)]).to(values.device)

    def wait(self) -> None:
        """Until all workers are here."""
        if self.world > 1:
            distributed.barrier()

    def averaging(self, model: nn.Module, objective: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        """The objective, with gradients averaged over the workers whenever its result is taken backwards.

        Weights are made rank 0's. A worker alone gets `objective` itself.
        """
        if self.world == 1:
            return objective
        # One tower's last parameters have no part in every objective: a cosine needs no item bias.
        return DistributedDataParallel(_Loss(model, objective), broadcast_buffers=False, find_unused_parameters=True)

    def exchanging(self, objective: Callable[[Any], Tensor], *, now: bool) -> AbstractContextManager[None]:
        """Around a forward and a backward pass: gradients are averaged now, or kept for a later pass to add to."""
        if now or not isinstance(objective, DistributedDataParallel):
            return nullcontext()
        held_back: AbstractContextManager[None] = objective.no_sync()
        return held_back


ALONE = Ranks()


def joined_ranks() -> Ranks:
    """Where this process stands in the torch.distributed group that it has joined; alone where it joined none."""
    if not distributed.is_available() or not distributed.is_initialized():
        return ALONE
    return Ranks(distributed.get_rank(), distributed.get_world_size())


class _Loss(nn.Module):
    """An objective as a module, the form in which DistributedDataParallel finds its parameters."""

    def __init__(self, model: nn.Module, objective: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Any) -> Tensor:
        """A batch to its mean loss."""
        return self.objective(batch)


def _device() -> str:
    """Where collectives want their tensors."""
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"

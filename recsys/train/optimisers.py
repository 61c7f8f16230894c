"""The optimiser of a model: AdamW for what every batch touches, row-wise Adagrad for tables it mostly leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError

TableOptimiser: TypeAlias = Literal["auto", "dense", "rowwise"]

ROW_WISE_FROM: Final = 50_000
"""Rows from which "auto" takes a table row by row."""

_TINY: Final = 1e-10


class RowWiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one state a row: s_r += mean(g_r²), w_r -= lr · g_r / (√s_r + ε).

    The exact row-wise Adagrad of FBGEMM's and TorchRec's embedding tables (Adagrad: Duchi et al. 2011, JMLR 12). Only
    the rows that a gradient holds are read and written, and the state is one number a row, where AdamW keeps two
    tables. A rare row keeps its large steps, since its state grows only when the row is met.

    Args:
        tables: weights (rows, d).
        lr: about how far the first step moves each entry of a row.
    """

    def __init__(self, tables: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(tables, {"lr": lr})
        for group in self.param_groups:
            for table in group["params"]:
                self.state[table]["sum"] = torch.zeros(len(table), device=table.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves the rows that the gradients hold; sparse gradients must be coalesced."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    rows, gradients = _held_rows(table.grad)
                    seen = self.state[table]["sum"]
                    spread = seen[rows] + gradients.square().mean(dim=1)
                    seen[rows] = spread
                    table.index_add_(0, rows, gradients * (-group["lr"] / (spread.sqrt() + _TINY)).unsqueeze(1))


class Optimiser:
    """AdamW and row-wise Adagrad over the parameters of one model that require a gradient, stepped as one.

    Tables that are taken row by row are told to give sparse gradients.

    Args:
        model: the module, on its device.
        lr: peak rate of AdamW.
        weight_decay: AdamW's, on matrices only.
        tables: what is taken row by row: every table ("rowwise"), none ("dense"), those of 50,000 rows on ("auto").
        table_lr: peak rate of row-wise Adagrad.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, weight_decay: float, tables: TableOptimiser, table_lr: float
    ) -> None:
        modules = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        embeddings = [module for module in modules if module.weight.requires_grad]
        row_wise = [table for table in embeddings if _is_row_wise(table, tables)]
        for table in row_wise:
            table.sparse = True
        self.parameters: dict[str, nn.Parameter] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        of_tables = {id(table.weight) for table in row_wise}
        self.row_wise = frozenset(name for name, weight in self.parameters.items() if id(weight) in of_tables)
        self._parts: list[torch.optim.Optimizer] = []
        if dense := [weight for name, weight in self.parameters.items() if name not in self.row_wise]:
            self._parts.append(_adamw(dense, embeddings, lr, weight_decay))
        if row_wise:
            self._parts.append(RowWiseAdagrad([self.parameters[name] for name in sorted(self.row_wise)], table_lr))
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self._parts]

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for weight in self.parameters.values():
            weight.grad = None

    @torch.no_grad()
    def step(self, share: float, longest: float) -> None:
        """One step along the gradients as they stand.

        Args:
            share: of the peak rates.
            longest: length that all gradients together may have; longer ones are scaled down to it.
        """
        gradients = self._gradients()
        norm = nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, torch.clamp(longest / (norm + 1e-6), max=1.0))
        for part, peaks in zip(self._parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = share * peak
            part.step()

    def _gradients(self) -> list[Tensor]:
        """All gradients there are; of a sparse one the rows it holds, each once."""
        gradients = []
        for weight in self.parameters.values():
            if weight.grad is None:
                continue
            if weight.grad.is_sparse:
                weight.grad = weight.grad.coalesce()
                gradients.append(weight.grad.values())
            else:
                gradients.append(weight.grad)
        return gradients

    def tensors(self) -> dict[str, Tensor]:
        """The state, as "<parameter>/<what>", for a checkpoint."""
        return {
            f"{name}/{key}": torch.as_tensor(value)
            for name, weight in self.parameters.items()
            for part in self._parts
            for key, value in part.state.get(weight, {}).items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts what `tensors` gave back."""
        owners = {id(w): part for part in self._parts for group in part.param_groups for w in group["params"]}
        for place, tensor in tensors.items():
            name, _, key = place.rpartition("/")
            weight = self.parameters[name]
            owners[id(weight)].state[weight][key] = (tensor if key == "step" else tensor.to(weight.device)).clone()


def possible_tables(wanted: TableOptimiser, *, sparse: bool) -> TableOptimiser:
    """How tables are taken where gradients may be sparse, or may not: then "auto" is "dense".

    Raises:
        ConfigError: for "rowwise" where they may not.
    """
    if sparse:
        return wanted
    if wanted == "rowwise":
        raise ConfigError(
            "table_optimiser = rowwise: several workers on GPUs cannot average sparse gradients (NCCL adds none); "
            "use one worker, or table_optimiser = dense"
        )
    return "dense"


def _is_row_wise(table: nn.Embedding, tables: TableOptimiser) -> bool:
    return tables == "rowwise" or (tables == "auto" and table.num_embeddings >= ROW_WISE_FROM)


def _held_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) rows that a gradient holds and (n, d) its values there; all of them where it is dense."""
    if gradient.is_sparse:
        return gradient.indices()[0], gradient.values()
    return torch.arange(len(gradient), device=gradient.device), gradient


def _adamw(
    weights: Sequence[nn.Parameter], tables: Sequence[nn.Embedding], lr: float, weight_decay: float
) -> torch.optim.AdamW:
    of_tables = {id(table.weight) for table in tables}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for weight in weights:
        (decayed if weight.dim() > 1 and id(weight) not in of_tables else free).append(weight)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, fused=True)

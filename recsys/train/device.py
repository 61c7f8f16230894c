"""Where training runs, and in which precision."""

from __future__ import annotations

import torch

from recsys.errors import MissingPartError


def choose_device(wanted: str) -> str:
    """Resolves "auto" to "cuda" where torch finds a GPU, else to "cpu".

    Raises:
        MissingPartError: when "cuda" is asked for and torch finds none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise MissingPartError("device = cuda: torch finds no GPU; use cpu, or install a CUDA build of torch")
    return "cuda" if wanted != "cpu" and there else "cpu"


def bf16_autocast(precision: str, device: str) -> bool:
    """Whether a step runs under bf16 autocast: on a GPU that has it unless float32 is asked for, on a CPU if asked for.

    On a CPU attention is slower in bf16 than in float32, so "auto" leaves the layers alone there.
    """
    if device == "cpu":
        return precision == "bf16"
    return precision != "float32" and torch.cuda.is_bf16_supported()


def bf16_products(precision: str, device: str) -> bool:
    """Whether the large products of the loss run in bf16: as autocast, and by "auto" on a CPU with AVX512-BF16."""
    return bf16_autocast(precision, device) or (precision == "auto" and device == "cpu" and _avx512_bf16())


def _avx512_bf16() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())

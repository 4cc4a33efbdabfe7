"""What this machine could do at best: a measured matmul rate, a measured copy rate, and what a model asks of both."""

from __future__ import annotations

import copy
from contextlib import suppress

import torch
from spandrel import ImageModelDescriptor
from torch.utils.flop_counter import FlopCounterMode

from cudaspeed.api.upstream import architecture_call
from cudaspeed.models.execution import DTYPES

from .harness import seconds

_RUNS = 5
_MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}
_COPY_BYTES = 1 << 28


class Ceilings:
    """The machine's rates, each measured when it is first asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: float | None = None
        self._products: dict[str, float] = {}

    def copies(self) -> float:
        """Bytes per second, see `copy_rate`."""
        if self._copies is None:
            self._copies = copy_rate(self._device)
        return self._copies

    def products(self, precision: str) -> float:
        """Operations per second, see `matmul_rate`."""
        if precision not in self._products:
            self._products[precision] = matmul_rate(DTYPES[precision], self._device)
        return self._products[precision]


def flops_per_pixel(model: ImageModelDescriptor, side: int = 64) -> float:
    """Floating point operations of `model` (on the CPU) per pixel of its input, counted by torch on a tile of
    `side` x `side`: convolutions, matrix products and attention, two for a multiplication with its addition."""
    for device in ("meta", "cpu"):
        module = copy.deepcopy(model.model).to(device)
        tile = torch.empty(1, model.input_channels, side, side, device=device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter, suppress(RuntimeError, NotImplementedError):
            architecture_call(model)(module, tile)
            return counter.get_total_flops() / side**2
        # without content nothing is computed, only counted; but some models need content
    raise RuntimeError(f"{model.architecture.name} cannot compute a tile of {side}x{side}")


def matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Floating point operations per second of a large square matrix product, the best of some runs.

    In fp32 on CUDA with TF32 where torch lets convolutions use it, as it does by default.
    """
    side = _MATMUL_SIDE.get(device.type, 4096)
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        torch.set_float32_matmul_precision("high")
    try:
        best = min(seconds(lambda: a @ b, device) for _ in range(1 + _RUNS))
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * side**3 / best


def copy_rate(device: torch.device) -> float:
    """Bytes per second between main memory and the device: on CUDA pinned and the mean of both ways, on a CPU
    within its memory, the best of some runs."""
    here = torch.ones(_COPY_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.ones_like(here, device=device)  # written once, so that its pages are there

    def both_ways() -> None:
        there.copy_(here, non_blocking=True)
        here.copy_(there, non_blocking=True)

    return 2 * _COPY_BYTES / min(seconds(both_ways, device) for _ in range(1 + _RUNS))

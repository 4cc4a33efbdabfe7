"""Linear layers on a CPU by products of bfloat16s, with what follows in one pass: csrc/linear.cpp, as modules.

Sums and results are float32. Products of float32 gain nothing: torch's library is near the processor's peak there.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..api.upstream import has_hooks
from .build import load_library, loaded_library
from .interface import LinearSizes
from .numerics import Limits, compare
from .operands import check_operand
from .packing import in_blocks

_LANES = 8
_LEAST_WORK = 1 << 23  # multiplications that threads are worth; as for convolutions: all threads or one
_CPU = torch.device("cpu")
_LIMITS = Limits(1e-1)  # rounding is a tenth of it


def prepare(folder: Path, patience: float = 0.0) -> bool:
    """Whether the kernels are there: in this process, or in the store in `folder`, into which they are built else, for
    which nobody waits longer than `patience` seconds."""
    return load_library("linear", folder, _flaw, patience) is not None


def suits(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    """Whether `module` is a linear layer that the kernels can take over, or a convolution that is one of pixels."""
    if has_hooks(module):
        return False
    if type(module) is nn.Conv2d:
        return (
            module.kernel_size == module.stride == (1, 1) and module.padding in ((0, 0), "same") and module.groups == 1
        )
    return type(module) is nn.Linear


class Kernels:
    """The library's functions, for tensors."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.scratch_bytes.restype = ctypes.c_int64
        library.apply.argtypes, library.apply.restype = (ctypes.c_void_p,) * 6, None
        self._widest: int = library.widest()

    def pack(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weights [C * O] bfloat16 and the bias [O] of a layer's [O, C] and [O], as `apply` takes them: C even, O a
        multiple of the lanes."""
        outputs, channels = weight.shape
        lanes = self._lanes(outputs)
        more, missing = -outputs % lanes, -channels % 2
        matrix = F.pad(weight.detach().bfloat16(), (0, missing, 0, more)).mT
        bias = torch.zeros(outputs) if bias is None else bias.detach().float()
        return in_blocks(matrix, lanes, torch.bfloat16), F.pad(bias, (0, more))

    def apply(self, x: Tensor, weights: Tensor, bias: Tensor, y: Tensor, gelu: bool) -> None:
        """Write into `y` [N, O] what the layer makes of `x` [N, C], both float32 on the CPU and dense, not the same
        memory. No more threads than torch may use. Raises `ValueError` for anything else."""
        (count, channels), outputs = x.shape, y.shape[1]
        lanes, even = self._lanes(outputs), channels + channels % 2
        wide = outputs + -outputs % lanes
        shapes = {"x": (x, x.shape), "y": (y, (count, outputs)), "bias": (bias, (wide,))}
        for name, (tensor, shape) in shapes.items():
            check_operand(name, tensor, shape, torch.float32, _CPU)
        check_operand("weights", weights, (even * wide,), torch.bfloat16, _CPU)
        for name, tensor in {"x": x, "y": y, "bias": bias, "weights": weights}.items():
            if not tensor.is_contiguous():
                raise ValueError(f"{name} is not dense: its strides are {tensor.stride()}")
        threads = torch.get_num_threads() if count * channels * outputs >= _LEAST_WORK else 1
        sizes = LinearSizes(count, channels, outputs, lanes, threads, gelu)
        scratch = torch.empty(self._library.scratch_bytes(ctypes.byref(sizes)), dtype=torch.uint8)
        pointers = (tensor.data_ptr() for tensor in (x, weights, bias, y))
        self._library.apply(*pointers, ctypes.byref(sizes), scratch.data_ptr())

    def _lanes(self, outputs: int) -> int:
        return _LANES if outputs <= _LANES else self._widest


class PackedLinear(nn.Module):
    """A linear layer, with GELU if `gelu`: x [..., C] float32 -> [..., O] float32."""

    weights: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, gelu: bool = False) -> None:
        super().__init__()
        weights, bias = _kernels().pack(layer.weight.flatten(1), layer.bias)
        self.register_buffer("weights", weights)
        self.register_buffer("bias", bias)
        self.outputs, self._gelu = len(layer.weight), gelu

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        y = rows.new_empty(len(rows), self.outputs)
        _kernels().apply(rows, self.weights, self.bias, y, self._gelu)
        return y.view(*x.shape[:-1], self.outputs)


class PackedPointwise(PackedLinear):
    """A convolution of single pixels: x [N, C, h, w] float32 -> [N, O, h, w], channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@functools.cache
def _kernels() -> Kernels:
    """The kernels that `prepare` has found."""
    return Kernels(loaded_library("linear"))


def _flaw(library: ctypes.CDLL) -> str | None:
    """What is wrong with the kernels just loaded, if anything is: odd sizes, by one thread and by all."""
    kernels, generator = Kernels(library), torch.Generator().manual_seed(0)
    for count, channels, outputs in ((7, 5, 3), (101, 60, 41), (129, 515, 131)):
        layer = cast(nn.Linear, skip_init(nn.Linear, channels, outputs))  # draws no random numbers
        for parameter in layer.parameters():
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
        x, y = torch.rand(count, channels, generator=generator) - 0.5, torch.empty(count, outputs)
        for gelu in (False, True):
            kernels.apply(x, *kernels.pack(layer.weight, layer.bias), y, gelu)
            with torch.no_grad():
                truth = F.gelu(layer(x)) if gelu else layer(x)
            if flaw := compare(y, truth, _LIMITS):
                return flaw
    return None

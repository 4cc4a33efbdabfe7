"""Attention within many small windows on a CPU, 1.5 to 4 times torch's speed: csrc/attention.cpp."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .build import load_library
from .heartbeat import beat, current_listener
from .interface import AttentionSizes, Windows
from .numerics import Limits, compare
from .operands import check_operand

_LANES = 8  # columns come in multiples of it
_RUN = 12  # rows of scores that a thread makes at a time
_LINE = 16  # floats
_MOST_BIASES = 2
_MOST_COLUMNS = 2048  # beyond, a thread's keys, values and scores leave its cache
# Multiplications that threads are worth; as for convolutions: all threads or one.
_LEAST_WORK = 1 << 20
_MOST_WORK = 1 << 30  # at once, where somebody listens: a tenth of a second, beside other work half of one
_CPU = torch.device("cpu")
_LIMITS = {torch.float32: Limits(3e-5), torch.bfloat16: Limits(2e-1)}  # rounding is a tenth of it

_library: ctypes.CDLL | None = None


def prepare(folder: Path, patience: float = 0.0) -> bool:
    """Whether the kernels are there: in this process, or in the store in `folder`, into which they are built else, for
    which nobody waits longer than `patience` seconds."""
    global _library
    _library = load_library("attention", folder, _flaw, patience)
    return _library is not None


def page_bytes(keys: int, channels: int, threads: int) -> int:
    """What the kernels' threads hold beside queries, keys, values and results: a head's keys and values packed, and
    values copied; a few rows of scores, of shares and of sums; at most, of floats and where registers are 16 wide
    (`places` in csrc/attention.h, `room` in csrc/attention.cpp)."""
    wide, wider = (-(-count // _LINE) * _LINE for count in (channels, channels + 1))
    parts = keys * (channels + channels % 2), keys * wider, keys * wide, *[_RUN * keys] * 2, _RUN * wider
    return sum(-(-floats // _LINE) * _LINE for floats in parts) * 4 * threads


def ready() -> bool:
    """Whether `prepare` has found them."""
    return _library is not None


def suits(query: Tensor, keys: Tensor, values: Tensor, biases: Sequence[Tensor]) -> bool:
    """Whether the kernels are there and take these: query [W, H, N, d], keys and values [W, H, M, d] and biases that
    are broadcast to [W, H, N, M], all float32 on the CPU, M a multiple of 8."""
    return (
        ready()
        and all(type(tensor) is Tensor for tensor in (query, keys, values, *biases))  # none of a tracer's
        and all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (query, keys, values, *biases))
        and keys.shape == values.shape
        and keys.shape[2] % _LANES == 0
        and keys.shape[2] <= _MOST_COLUMNS
        and not torch.is_autocast_enabled("cpu")
    )


def attend(
    query: Tensor, keys: Tensor, values: Tensor, biases: Sequence[Tensor], products: torch.dtype = torch.float32
) -> Tensor:
    """`softmax(query @ keys^T + biases) @ values`, [W, H, N, d], for what `suits`; `products`, float32 or bfloat16, are
    what is multiplied. Raises `ValueError` for anything else, torch's `RuntimeError` for biases that are not broadcast
    to the scores, and whatever a listener to its beats raises."""
    assert _library is not None
    return _attend(_library, (query, keys, values), biases, products)


def _attend(
    library: ctypes.CDLL, operands: tuple[Tensor, Tensor, Tensor], biases: Sequence[Tensor], products: torch.dtype
) -> Tensor:
    query, keys, values = operands
    _check(query, keys, values, biases)
    (windows, heads, rows, channels), columns = query.shape, keys.shape[2]
    shape = (windows, heads, rows, columns)
    if len(biases) > _MOST_BIASES:
        biases = [sum(biases[1:], biases[0])]
    biases = [bias.expand(*bias.shape[:-1], columns) for bias in biases]
    tensors = [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, keys, values, *biases)]
    given = [*tensors[:3], *(bias.expand(shape) for bias in tensors[3:])]
    widest, work = library.widest(), 2 * math.prod(shape) * channels
    sizes = AttentionSizes(
        windows, heads, rows, columns, channels, len(biases),
        lanes=widest if columns % widest == 0 else _LANES,
        threads=torch.get_num_threads() if work >= _LEAST_WORK else 1, bfloat16=products == torch.bfloat16,
    )  # fmt: skip
    library.scratch_bytes.restype = ctypes.c_int64
    scratch = torch.empty(library.scratch_bytes(ctypes.byref(sizes)), dtype=torch.uint8)
    result = torch.empty(windows, rows, heads, channels)
    at_once = max(1, windows * _MOST_WORK // work if current_listener() and work else windows)
    for first in range(0, windows, at_once):
        if first:
            beat(0)
        target, *parts = (tensor[first : first + at_once] for tensor in (result, *given))
        sizes.windows = len(target)
        library.attend(
            ctypes.byref((Windows * len(parts))(*(Windows(part.data_ptr(), *part.stride()[:3]) for part in parts))),
            ctypes.c_void_p(target.data_ptr()),
            ctypes.byref(sizes),
            ctypes.c_void_p(scratch.data_ptr()),
        )
    return result.permute(0, 2, 1, 3)


def _check(query: Tensor, keys: Tensor, values: Tensor, biases: Sequence[Tensor]) -> None:
    """Raise `ValueError` for what the kernels, which get bare pointers, cannot take; strides are seen to later."""
    if query.ndim != 4 or keys.ndim != 4:
        raise ValueError(f"query and keys must be [W, H, n, d], not {tuple(query.shape)} and {tuple(keys.shape)}")
    (windows, heads, _, channels), columns = query.shape, keys.shape[2]
    if not columns or columns % _LANES:
        raise ValueError(f"{columns} keys are no multiple of {_LANES}")
    for name, tensor in {"query": query, "keys": keys, "values": values}.items():
        shape = query.shape if name == "query" else (windows, heads, columns, channels)
        check_operand(name, tensor, shape, torch.float32, _CPU)
    for bias in biases:
        check_operand("a bias", bias, bias.shape, torch.float32, _CPU)


def _flaw(library: ctypes.CDLL) -> str | None:
    """What is wrong with the kernels just loaded, if anything is: odd sizes, by one thread and half a register, and by
    all and whole ones, both kinds of bias, and a mask."""
    generator = torch.Generator().manual_seed(0)
    for windows, rows, columns in ((3, 31, 40), (9, 61, 112)):
        query, keys, values = (
            torch.randn(windows, n, 2, 11, generator=generator).transpose(1, 2) for n in (rows, columns, columns)
        )
        biases = [torch.randn(2, rows, columns, generator=generator), torch.zeros(windows, 1, rows, columns)]
        biases[1][1, :, :, ::3] = -100.0
        truth = (query @ keys.mT + biases[0] + biases[1]).softmax(-1) @ values
        for products, limits in _LIMITS.items():
            flaw = compare(_attend(library, (query, keys, values), biases, products), truth, limits)
            if flaw:
                return flaw
    return None

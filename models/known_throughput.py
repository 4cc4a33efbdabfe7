"""How large forwards should be on a CPU, by formula: where nothing was measured of a model yet.

What a pixel costs grows with the tensors that a model spends most of its time on: they leave the caches, and beyond
32 MiB GNU's C library maps them anew for every layer (see throughput.py).
"""

from __future__ import annotations

import math

from spandrel import ImageModelDescriptor
from torch import nn

from ..kernels.layers import places
from .info import is_convolutional
from .known_memory import values_of
from .throughput import Throughput

_MAPPED_ANEW = 32 << 20  # bytes
_BEST = _MAPPED_ANEW / 4
_SIDES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # pixels
_TYPICAL = 0.75  # of a model's multiplications are done on tensors that are no larger
# What a pixel costs more with every doubling of those tensors, as measured: docs/performance.md.
_CONVOLUTIONAL, _ATTENTION = 0.15, 0.3


def known_throughput(descriptor: ImageModelDescriptor, itemsize: int = 4) -> Throughput:
    """What a pixel costs in forwards of different sizes on a CPU, in shares of the cheapest; `itemsize` bytes hold a
    value. For comparing sizes, as `Throughput.relative` does: the seconds are none."""
    held = tensor_bytes(descriptor, itemsize)
    growth = _CONVOLUTIONAL if is_convolutional(descriptor.model) else _ATTENTION
    sizes = [side * side for side in _SIDES]
    return Throughput(tuple((pixels, 1 + growth * math.log2(1 + pixels * held / _MAPPED_ANEW)) for pixels in sizes))


def best_pixels(descriptor: ImageModelDescriptor, itemsize: int = 4) -> int:
    """Pixels of a forward's input on a CPU from which on larger ones cost more for a pixel: where a model's typical
    tensor has 8 MiB."""
    return max(1, int(_BEST / tensor_bytes(descriptor, itemsize)))


def tensor_bytes(descriptor: ImageModelDescriptor, itemsize: int = 4) -> float:
    """Bytes for a pixel of the input of a model's typical large tensor: three quarters of its multiplications are done
    in layers that are neither given nor make a larger one."""
    work: list[tuple[float, float]] = []
    for place in places(descriptor.model, descriptor.scale):
        values = max(values_of(place))
        if values:
            weight = place.module.weight
            assert isinstance(weight, nn.Parameter)
            work.append((values, weight.numel() * min(place.before, place.after)))
    left = _TYPICAL * sum(multiplications for _, multiplications in work)
    for values, multiplications in sorted(work):
        left -= multiplications
        if left <= 0:
            return values * itemsize
    return float(itemsize * descriptor.input_channels)

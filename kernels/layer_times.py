"""What a pixel costs in each kind of layer, by each way to compute it; and what a model does, as a sum over its layers.

cuDNN and Triton choose layer by layer, too. A kind that was not timed counts by the multiplications of the nearest
one that was. The parts of a model that take as long in every way are in no sum: ways are compared, no time is foretold.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from . import linear, transformer_block, window_attention, winograd
from .layers import LayerKind, LayerName
from .linear import PackedPointwise
from .timing import Clock
from .transformer_block import FusedTransformerBlock
from .transformer_example import Attend, Shape, attention, by_torch, example
from .winograd_modules import WinogradConvolution

Way = Literal["plain", "plain channels last", "winograd", "bf16 channels last", "bf16 winograd", "attention"]
"""How a model is computed. "attention" is plain but for attention within windows, by our kernels; "winograd" is in
channels-last memory, and computes attention by our kernels, too; "bf16 winograd" is that with products of bfloat16s,
of linear layers, too."""

# What is computed by the same code as another way does it is timed as that.
_SAME: Mapping[LayerName, Mapping[Way, Way]] = {
    "conv3x3": {"attention": "plain"},
    "pointwise": {"plain channels last": "plain", "winograd": "plain", "attention": "plain"},
    "attention": {"plain channels last": "plain", "winograd": "attention"},
    "block": {"plain channels last": "plain"},
}
_CALLS = 2  # of each, after one to warm up: the least counts, what else the machine does only slows down
_MULTIPLICATIONS = 30e6  # in a call: a millisecond or so
_SIDES = (16, 96)  # pixels of a convolution that is timed, at least and at most
_PIXELS = 64 * 64  # of a block that is timed: by torch, what it computes goes through memory, as in a tile

_Call = tuple[int, Callable[[], object]]  # the pixels that it computes, and what computes them


class Timing(NamedTuple):
    """What one call took: seconds for a megapixel of the layer's own; infinity where it only warmed up."""

    kind: LayerKind
    way: Way
    seconds: float


@dataclass(frozen=True)
class LayerTimes:
    """Seconds for a megapixel of a layer, by its kind and the way it is computed (one of those `timed_as`)."""

    seconds: Mapping[tuple[LayerKind, Way], float] = field(default_factory=dict)

    def of(self, kind: LayerKind, way: Way) -> float | None:
        """As timed, or by the rate of the nearest kind of the name that was; None where none was."""
        way = timed_as(kind, way)
        known = self.seconds.get((kind, way))
        if known is not None:
            return known
        others = self._kinds.get((kind.name, way))
        if not others:
            return None
        nearest = min(others, key=lambda other: (_distance(kind, other), other))
        return self.seconds[nearest, way] * kind.multiplications / nearest.multiplications

    @functools.cached_property
    def _kinds(self) -> Mapping[tuple[LayerName, Way], list[LayerKind]]:
        found: dict[tuple[LayerName, Way], list[LayerKind]] = {}
        for kind, way in self.seconds:
            found.setdefault((kind.name, way), []).append(kind)
        return found

    def with_timings(self, timings: Iterable[Timing]) -> LayerTimes:
        """This with the least time of each of `timings`, instead of what was known of these."""
        found: dict[tuple[LayerKind, Way], float] = {}
        for kind, way, seconds in timings:
            if 0 < seconds < math.inf:
                found[kind, way] = min(seconds, found.get((kind, way), math.inf))
        return LayerTimes({**self.seconds, **found})


def predicted(kinds: Mapping[LayerKind, float], times: LayerTimes, way: Way) -> float | None:
    """Seconds for a megapixel of a model's input in its layers of known kinds, `layers_of` the model; None where that
    of one of them is not known, or there are none. For comparing ways: what is equal in all of them is left out."""
    total = 0.0
    for kind, pixels in kinds.items():
        seconds = times.of(kind, way)
        if seconds is None:
            return None
        total += pixels * seconds
    return total or None


def timed_as(kind: LayerKind, way: Way) -> Way:
    """The way that stands for `way` where it makes no difference to such a layer."""
    return _SAME[kind.name].get(way, way)


def missing(kinds: Iterable[LayerKind], times: LayerTimes, ways: Iterable[Way]) -> list[tuple[LayerKind, Way]]:
    """What would have to be timed before sums over these can be told."""
    ways = list(ways)
    wanted: dict[tuple[LayerKind, Way], None] = {(kind, timed_as(kind, way)): None for kind in kinds for way in ways}
    return [(kind, way) for kind, way in wanted if times.of(kind, way) is None]


def timings(
    what: Iterable[tuple[LayerKind, Way]], clock: Clock = time.perf_counter, calls: int = _CALLS
) -> Iterator[Timing]:
    """Time layers on the CPU, in turn and by this thread's leave: between two yields lies one call, some milliseconds.

    The first call of each only warms up, and counts as infinitely long. Whoever asks for "winograd" or "attention" has
    prepared these kernels.
    """
    works: list[tuple[LayerKind, Way, _Call]] = [(kind, way, _call(kind, way)) for kind, way in what]
    for turn in range(calls + 1):
        for kind, way, (pixels, work) in works:
            began = clock()
            with torch.inference_mode():
                work()
            seconds = clock() - began
            yield Timing(kind, way, seconds / pixels * 1e6 if turn else math.inf)


def _distance(kind: LayerKind, other: LayerKind) -> float:
    """Between kinds of one name: the largest ratio of their sizes, as a logarithm, then the sum of all."""
    ratios = [abs(math.log(a / b)) for a, b in zip(kind.sizes, other.sizes, strict=True)]
    return max(ratios) + 1e-3 * sum(ratios)


def _call(kind: LayerKind, way: Way) -> _Call:
    if kind.name == "attention":
        return _attention(kind, way)
    if kind.name == "block":
        return _block(kind, way)
    generator = torch.Generator().manual_seed(0)
    channels, outputs = kind.sizes
    least, most = _SIDES
    side = min(most, max(least, math.isqrt(int(_MULTIPLICATIONS / kind.multiplications)) // 8 * 8))
    size = 3 if kind.name == "conv3x3" else 1
    layer: nn.Module = nn.Conv2d(channels, outputs, size, padding=size // 2).requires_grad_(False)
    x = torch.rand(1, channels, side, side, generator=generator)
    if way == "bf16 channels last":
        layer, x = layer.bfloat16(), x.bfloat16()
    if way not in ("plain", "attention"):
        layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # the stubs of torch lack it
        x = x.contiguous(memory_format=torch.channels_last)
    if winograd.suits(layer) and way in ("winograd", "bf16 winograd"):
        layer = WinogradConvolution(layer, products=torch.float32 if way == "winograd" else torch.bfloat16)
    elif linear.suits(layer) and way == "bf16 winograd":
        layer = PackedPointwise(layer)
    return side * side, lambda: layer(x)


def _attention(kind: LayerKind, way: Way) -> _Call:
    queries, keys, channels, heads = kind.sizes
    windows = max(1, int(_MULTIPLICATIONS / kind.multiplications) // queries)
    kept = torch.bfloat16 if way == "bf16 channels last" else torch.float32
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.rand(windows, heads, n, channels, generator=generator).to(kept) for n in (queries, keys, keys))
    bias = torch.rand(heads, queries, keys, generator=generator).to(kept)
    attend = _attend_in(way)
    return windows * queries, lambda: attend(q, k, v, [bias])


def _block(kind: LayerKind, way: Way) -> _Call:
    shape, generator = Shape(*kind.sizes, shift=0), torch.Generator().manual_seed(0)
    windows = -(-_PIXELS // shape.window**2)
    block, size = example(shape, generator).requires_grad_(False), (shape.window, windows * shape.window)
    x = torch.rand(1, *size, shape.channels, generator=generator)
    pixels = math.prod(size)
    if way in ("winograd", "bf16 winograd") and transformer_block.ready():
        fused = FusedTransformerBlock(block, torch.float32 if way == "winograd" else torch.bfloat16)
        return pixels, lambda: fused(x.flatten(1, 2), size)
    if way == "bf16 channels last":
        block, x = block.bfloat16(), x.bfloat16()
    attend = _attend_in(way)
    return pixels, lambda: by_torch(block, shape, x, attend=attend)


def _attend_in(way: Way) -> Attend:
    """Attention within windows as it is computed in this way."""
    if way in ("plain", "plain channels last", "bf16 channels last"):
        return attention
    products = torch.bfloat16 if way == "bf16 winograd" else torch.float32

    def attended(query: Tensor, keys: Tensor, values: Tensor, biases: Sequence[Tensor]) -> Tensor:
        if window_attention.suits(query, keys, values, biases):
            return window_attention.attend(query, keys, values, biases, products)
        return attention(query, keys, values, biases)

    return attended

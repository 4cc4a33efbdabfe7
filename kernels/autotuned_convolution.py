"""Which convolution is the fastest on the device at hand: found out once by measuring, and only among right ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..api.errors import first_line
from .convolution import Convolution, Residual, plain_convolution
from .numerics import Limits, compare
from .timing import Timer, seconds_on_cuda

logger = logging.getLogger("cudaspeed")

# A candidate must save this share of the time: less is noise, and what everybody uses is the safer choice.
_WORTH = 0.03
# Of one layer: some steps of the type, for values of several root mean squares. fp32 allows for cuDNN's TF32, torch's
# default.
_LIMITS = {torch.float16: Limits(2e-2), torch.bfloat16: Limits(1.5e-1), torch.float32: Limits(2e-2)}
# Pixels that choices are made for. Below the least nothing is gained but launches saved; the most fill any device.
_LEAST_PIXELS, _MOST_PIXELS = 1 << 12, 1 << 18


class Candidate(NamedTuple):
    """A convolution that may be faster than the plain one; `name` is for the log."""

    name: str
    convolve: Convolution


class Layer(NamedTuple):
    """What a choice is made for: a convolution of pictures [count, channels, height, width] to `out_channels`, whose
    pixels lie `pitch` values apart where it reads, `out_pitch` where it writes."""

    device: torch.device
    dtype: torch.dtype
    count: int
    height: int
    width: int
    channels: int
    out_channels: int
    pitch: int
    out_pitch: int


def choose_convolution(candidates: Iterable[Candidate], layer: Layer, seconds: Timer) -> Convolution:
    """The fastest of the candidates that are right, if it is clearly faster than the plain convolution, else that one.

    They are tried on made-up values. What fails is left out, but torch's out-of-memory error is raised.
    """
    work = _made_up(layer)
    target = work(plain_convolution)
    truth = target.clone()
    fastest = Candidate("plain", plain_convolution)
    best = (1 - _WORTH) * seconds(lambda: work(plain_convolution))
    for candidate in candidates:
        target.zero_()
        try:
            wrong = compare(work(candidate.convolve), truth, _LIMITS[layer.dtype])
            spent = best if wrong else seconds(lambda convolve=candidate.convolve: work(convolve))
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in all sorts of ways
            wrong, spent = first_line(error), best
        if wrong:
            logger.info("convolution %s is not used: %s", candidate.name, wrong)
        elif spent < best:
            fastest, best = candidate, spent
    logger.debug("%d to %d channels in %s: %s", layer.channels, layer.out_channels, layer.dtype, fastest.name)
    return fastest.convolve


class Convolutions:
    """A `Convolution` that is the fastest one for what it is given: measured when a kind of layer is first seen, and
    remembered. For tiny pictures, and while a CUDA graph is captured, nothing is measured and the plain one serves.

    `find` gives the candidates for a layer. One that was chosen and fails after all is given up.
    """

    def __init__(self, find: Callable[[Layer], Sequence[Candidate]], seconds: Timer = seconds_on_cuda) -> None:
        self._find, self._seconds = find, seconds
        self._chosen: dict[tuple, Convolution] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> Convolutions:
        """Itself: copied networks share what was measured."""
        return self

    def __call__(
        self,
        source: Tensor,
        target: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        slope: float | Tensor = 1.0,
        residuals: Sequence[Residual] = (),
    ) -> None:
        chosen = self._choose(source, target)
        try:
            chosen(source, target, weight, bias, slope, residuals)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # compilers and drivers fail in all sorts of ways
            if chosen is plain_convolution:
                raise
            self._give_up(chosen, error)
            plain_convolution(source, target, weight, bias, slope, residuals)

    def _choose(self, source: Tensor, target: Tensor) -> Convolution:
        count, channels, height, width = source.shape
        pixels = count * height * width
        if pixels < _LEAST_PIXELS or source.dtype not in _LIMITS:
            return plain_convolution
        sizes = min(pixels, _MOST_PIXELS).bit_length()  # powers of two are near enough
        kind = source.device, source.dtype, channels, target.shape[1], sizes
        if kind in self._chosen:
            return self._chosen[kind]
        if source.is_cuda and torch.cuda.is_current_stream_capturing():
            return plain_convolution
        height = max(1, min(height, _MOST_PIXELS // (count * width)))
        pitches = (max(tensor.stride(3), tensor.shape[1]) for tensor in (source, target))
        layer = Layer(source.device, source.dtype, count, height, width, channels, target.shape[1], *pitches)
        try:
            with torch.cuda.device_of(source):
                self._chosen[kind] = self._measure(layer)
        except torch.cuda.OutOfMemoryError:  # there is room for the forward, but not for the choice: another time
            return plain_convolution
        return self._chosen[kind]

    def _measure(self, layer: Layer) -> Convolution:
        try:
            candidates = self._find(layer)
        except Exception as error:  # no Triton, or one that does not suit this torch
            logger.info("convolutions go the plain way: %s", first_line(error))
            self._find = lambda layer: ()  # said once
            return plain_convolution
        if not candidates:
            return plain_convolution
        with torch.autocast(layer.device.type, enabled=False):
            return choose_convolution(candidates, layer, self._seconds)

    def _give_up(self, failed: Convolution, error: Exception) -> None:
        logger.info("the fastest convolution fails and is done the plain way from now on: %s", first_line(error))
        self._chosen = {
            kind: plain_convolution if chosen is failed else chosen for kind, chosen in self._chosen.items()
        }


def _made_up(layer: Layer) -> Callable[[Convolution], Tensor]:
    """A function that runs a convolution on random values for `layer` and gives its target [N, C', h, w]."""
    generator = torch.Generator(layer.device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=layer.dtype, device=layer.device)
        return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values

    source = random(layer.count, layer.pitch, layer.height, layer.width)[:, : layer.channels]
    target = random(layer.count, layer.out_pitch, layer.height, layer.width)[:, : layer.out_channels]
    weight, bias = random(layer.out_channels, layer.channels, 3, 3), random(layer.out_channels)

    def work(convolve: Convolution) -> Tensor:
        convolve(source, target, weight, bias, 0.2)
        return target

    return work


def _by_triton(layer: Layer) -> list[Candidate]:
    """What Triton can offer. Raises `ImportError` where it is not there."""
    if layer.device.type != "cuda":
        return []
    from .triton_convolution import suitable_blocks, triton_convolution  # here: torch without CUDA has no Triton

    blocks = suitable_blocks(layer.channels, layer.out_channels)
    return [Candidate(f"by Triton, {some}", triton_convolution(some)) for some in blocks]


fastest_convolution = Convolutions(_by_triton)
"""The one that a process has; every network's layers share its choices."""

"""Which way to compute a model is the fastest on this device: measured once, on the model itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from ..api.context import RunContext
from ..api.errors import CudaspeedError, ModelFailedError, first_line
from ..api.options import Precision, PrecisionChoice
from ..kernels import window_attention, winograd
from ..kernels.build import code_of
from ..kernels.numerics import OF_A_MODEL, compare
from ..kernels.rewrite import can_fuse
from ..kernels.timing import Clock, reproduced, taking_turns, timed
from ..kernels.winograd import suits
from .execution import ExecutionMode
from .info import is_convolutional
from .precision import probe_picture
from .runner import ModelRunner

logger = logging.getLogger("cudaspeed")

_LEAST_SIDE = 64  # for attention: in less, scores fit caches that they outgrow in any real tile
_WORTH = 10  # probes: it takes four, and saves four tenths and more of the work after it
_LONG = 0.3  # seconds: what else the machine does for a moment is little beside it
_CLEARLY = 0.95  # of the time of what would be used anyway


def mode_candidates(
    model: nn.Module, mode: ExecutionMode, asked: PrecisionChoice, context: RunContext
) -> list[ExecutionMode]:
    """What may be faster than `mode` on the context's device, in the same precision, or a better one.

    Our kernels are built for it if need be. Only where precision is automatic may it be another one than `mode`'s.
    """
    device, convolutional = context.device.type, is_convolutional(model)
    if device == "cpu" and not convolutional:
        window_attention.prepare(context.cache_folder)
    exact = mode.precision == "fp32" or asked == "auto"
    found = [] if convolutional else [replace(mode, kernels="attention")]
    if device == "cpu" and exact and any(map(suits, model.modules())) and winograd.prepare(context.cache_folder):
        ours = ExecutionMode("fp32", autocast=False, channels_last=True, kernels="winograd")
        return [ours] if mode.precision == "fp32" else [*found, ours]  # it computes attention as well
    if device == "cuda" and convolutional:
        found.append(replace(mode, channels_last=not mode.channels_last))
        if can_fuse(model):
            found.append(replace(mode, channels_last=True, kernels="fused"))
    return found


def code_behind(model: nn.Module, others: Sequence[ExecutionMode]) -> str:
    """Our kernels that `others` compute with, for a key: what was measured says nothing of later ones, or of none."""
    ours, attention = any(other.kernels == "winograd" for other in others), code_of("attention")
    codes = {
        "attention": attention if attention and not is_convolutional(model) else "",  # in this order: asking is slow
        "winograd": code_of("winograd") if ours else "",
    }
    return "".join(f", {name} {code[:8]}" for name, code in codes.items() if code)


def least_pixels(descriptor: ImageModelDescriptor, context: RunContext) -> int:
    """The work that is worth finding out for. Convolutional models, and devices other than a CPU, are quick about
    it."""
    if context.device.type != "cpu" or is_convolutional(descriptor.model):
        return 0
    return _WORTH * _LEAST_SIDE**2


class Fastest(NamedTuple):
    """The fastest copy, and whether that is `sure`: on a busy machine it may be chance."""

    runner: ModelRunner
    sure: bool


def fastest(
    descriptor: ImageModelDescriptor,
    mode: ExecutionMode,
    others: Sequence[ExecutionMode],
    context: RunContext,
    clock: Clock = time.perf_counter,
) -> Fastest:
    """`descriptor`'s copy in `mode`, or in that of `others` which is clearly faster and computes the same.

    Each is run some times, in turn, for some seconds at most or twice. The choice is sure if all took their least time
    more than once, or if the fastest takes long and none of its times is near another's. Raises `ModelFailedError`
    where the model fails in `mode`, and the context's interrupt and out-of-memory error.
    """
    picture = probe_picture(descriptor)
    least = 0 if is_convolutional(descriptor.model) else _LEAST_SIDE
    picture = picture.repeat(1, 1, *_copies(context.device, picture.shape[2:], least)).to(context.device)
    probe = _Probe(picture, context, clock)
    with torch.inference_mode():
        usual = ModelRunner(descriptor, mode)
        context.make_resident(usual, 0)
        truth, seconds = probe.timed(usual)
        found = [_candidate(descriptor, other, truth, mode.precision, probe) for other in others]
        ways = [_Way(usual, seconds), *(candidate for candidate in found if candidate)]
        all_times = _times(ways, probe) if len(ways) > 1 else [[0.0, 0.0]]
    models, times = [way.runner for way in ways], [min(taken) for taken in all_times]
    best = times.index(min(times))
    others_times = [*times[:best], *times[best + 1 :]]
    apart = times[best] > _LONG and max(all_times[best]) < _CLEARLY * min(others_times, default=0.0)
    sure = apart or all(map(reproduced, all_times))
    told = {str(runner.mode): least for runner, least in zip(models, times, strict=True)}
    logger.debug("%s: %s%s", descriptor.architecture.name, told, "" if sure else ", on a busy machine")
    return Fastest(models[best] if times[best] < _CLEARLY * times[0] else usual, sure)


class _Way(NamedTuple):
    """A copy of the model, and the seconds that it took for the picture the first time."""

    runner: ModelRunner
    seconds: float


def _copies(device: torch.device, size: Sequence[int], least: int) -> tuple[int, int]:
    """How often the probe picture of `size` (height, width) is repeated, down and across, so that it is work for the
    whole device, and its sides are of `least` pixels."""
    if device.type == "cuda":
        return 6, 6
    down, across = (max(1, -(-least // side)) for side in size)
    return max(torch.get_num_threads() // 4, down), across


@dataclass(frozen=True)
class _Probe:
    """What every mode computes, on the context's device, timed by `clock`."""

    picture: Tensor
    context: RunContext
    clock: Clock

    def timed(self, runner: ModelRunner) -> tuple[Tensor, float]:
        """What the runner makes of the picture, and the seconds that it took."""
        try:
            return timed(runner.forward, self.picture, self.clock)
        except Exception as error:
            if isinstance(error, CudaspeedError) or self.context.is_out_of_memory(error):
                raise
            raise ModelFailedError(first_line(error)) from error


def _candidate(
    descriptor: ImageModelDescriptor, mode: ExecutionMode, truth: Tensor, precision: Precision, probe: _Probe
) -> _Way | None:
    """The copy in `mode`, if it can be made and makes the same of the picture, as far as `precision` can tell."""
    context = probe.context
    try:
        runner = ModelRunner(descriptor, mode)
        context.make_resident(runner, 0)
        output, seconds = probe.timed(runner)
    except Exception as error:  # a model may fail in any way in another layout, or with modules it does not know
        context.raise_if_interrupted()
        if context.is_out_of_memory(error):
            raise
        logger.debug("not in %s: %s", mode, first_line(error))
        return None
    flaw = compare(output, truth, OF_A_MODEL[precision])
    if flaw:
        logger.warning("not in %s: %s", mode, flaw)
    return None if flaw else _Way(runner, seconds)


def _times(ways: Sequence[_Way], probe: _Probe) -> list[list[float]]:
    """The seconds that each takes for the picture, some times."""

    def once(runner: ModelRunner) -> float:
        probe.context.raise_if_interrupted()
        probe.context.make_resident(runner, 0)  # a host short of memory has unloaded it for another
        return probe.timed(runner)[1]

    return taking_turns([partial(once, way.runner) for way in ways], before=[way.seconds for way in ways])

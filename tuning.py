"""Which way to compute a model is the fastest on this device: measured once, on the model itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from . import winograd
from .agreement import disagreement
from .contracts import PrecisionChoice, RunContext, first_line
from .precision import probe_picture
from .rewriting import can_fuse
from .traits import is_convolutional
from .winograd import suits
from .working import Variant, WorkingModel

logger = logging.getLogger("cudaspeed")

_LEAST_ROUNDS, _MOST_ROUNDS = 2, 10  # what else the machine does only slows down: the best counts
_ENOUGH_SECONDS = 0.3
_CLEARLY = 0.95  # of the time of what would be used anyway
_REPEATS = {"cuda": 6}  # of the probe picture, each way: less does not fill a GPU


def rivals(model: nn.Module, variant: Variant, asked: PrecisionChoice, context: RunContext) -> list[Variant]:
    """What may be faster than `variant` on the context's device, in the same precision, or a better one.

    Our kernels are built for it if need be. Only where precision is automatic may it be another one than `variant`'s.
    """
    if not is_convolutional(model):
        return []
    device = context.device.type
    exact = variant.precision == "fp32" or asked == "auto"
    if device == "cpu" and exact and any(map(suits, model.modules())) and winograd.prepare(context.cache_folder):
        return [Variant("fp32", autocast=False, channels_last=True, kernels="winograd")]
    if device != "cuda":
        return []
    fused = replace(variant, channels_last=True, kernels="fused")
    return [replace(variant, channels_last=not variant.channels_last), *([fused] if can_fuse(model) else [])]


def fastest(
    descriptor: ImageModelDescriptor, variant: Variant, others: Sequence[Variant], context: RunContext
) -> WorkingModel:
    """`descriptor`'s copy in `variant`, or in that of `others` which is clearly faster and computes the same.

    Each is run some times, for a third of a second together or twice. Raises what `variant` raises, and the context's
    out-of-memory error.
    """
    repeats = _REPEATS.get(context.device.type, 1)
    picture = probe_picture(descriptor).repeat(1, 1, repeats, repeats).to(context.device)
    with torch.inference_mode():
        usual = WorkingModel(descriptor, variant)
        context.make_resident(usual, 0)
        truth = usual.forward(picture)
        rivals = [WorkingModel(descriptor, other) for other in others]
        rivals = [rival for rival in rivals if _computes_the_same(rival, picture, truth, variant, context)]
        times = _best_times([usual, *rivals], picture)
    seconds, best = min(zip(times[1:], rivals, strict=True), key=lambda pair: pair[0], default=(times[0], usual))
    logger.debug(
        "%s: %.4f s in %s, %.4f s in %s", descriptor.architecture.name, times[0], variant, seconds, best.variant
    )
    return best if seconds < _CLEARLY * times[0] else usual


def _computes_the_same(
    rival: WorkingModel, picture: Tensor, truth: Tensor, usual: Variant, context: RunContext
) -> bool:
    context.make_resident(rival, 0)
    try:
        output = rival.forward(picture)
    except Exception as error:  # a model may fail in any way in another layout, or with modules it does not know
        if context.is_out_of_memory(error):
            raise
        logger.debug("not in %s: %s", rival.variant, first_line(error))
        return False
    flaw = disagreement(output, truth, usual.precision)
    if flaw:
        logger.warning("not in %s: %s", rival.variant, flaw)
    return flaw is None


def _best_times(models: Sequence[WorkingModel], picture: Tensor) -> list[float]:
    """The least seconds each takes for `picture`, in turn, so that what else happens meets them all."""
    best, spent, rounds = [float("inf")] * len(models), 0.0, 0
    while len(models) > 1 and (rounds < _LEAST_ROUNDS or (spent < _ENOUGH_SECONDS and rounds < _MOST_ROUNDS)):
        for k, working in enumerate(models):
            seconds = _seconds(working, picture)
            best[k], spent = min(best[k], seconds), spent + seconds
        rounds += 1
    return best


def _seconds(working: WorkingModel, picture: Tensor) -> float:
    began = time.perf_counter()
    working.forward(picture)[..., :1, :1].cpu()  # waits for it
    return time.perf_counter() - began

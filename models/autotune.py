"""Which ways there are to compute a model, beside torch's usual one, and which of them is the fastest.

On a CPU that is known without measuring the model: it is the sum over its layers (kernels/layer_times.py). On other
devices it is measured on the model itself, once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from ..kernels import linear, transformer_block, window_attention, winograd
from ..kernels.build import code_of, is_pending
from ..kernels.numerics import OF_A_MODEL, compare
from ..kernels.rewrite import can_fuse
from ..kernels.winograd import suits
from .execution import ExecutionMode
from .info import has_linear_layers, is_convolutional
from .study import Answer, Ask, Steps, Study
from .trial import probe_picture

logger = logging.getLogger("cudaspeed")

_ROUNDS = 4  # in turn; the first warms up
_REPEATED = 6  # the probe picture, each way, so that it is work for the whole device
_CLEARLY = 0.95  # of the time of what would be used anyway


def by_our_kernels(model: nn.Module, usual: ExecutionMode, folder: Path) -> list[ExecutionMode] | None:
    """Ways to compute in `usual`'s precision on a CPU by kernels of ours, best first. What is not built yet is built
    into `folder`, beside what else goes on; None while it is."""
    convolutional = is_convolutional(model)
    attends = not convolutional and window_attention.prepare(folder)
    half = usual.precision == "bf16"
    wants = (half or usual.precision == "fp32") and any(map(suits, model.modules()))
    convolves = wants and winograd.prepare(folder)
    multiplies = half and has_linear_layers(model)
    if convolves and half:
        convolves = winograd.multiplies_bfloat16() and (not multiplies or linear.prepare(folder))
    transforms = wants and any(map(transformer_block.suits, model.modules()))
    if transforms:
        transformer_block.prepare(folder)
    kernels = (
        ("winograd", wants),
        ("linear", multiplies),
        ("attention", not convolutional),
        ("transformer_block", transforms),
    )
    asked = [name for name, was in kernels if was]
    if any(map(is_pending, asked)):
        return None  # one of them now and both in the next run would be two results of one picture
    others = [replace(usual, kernels="attention")] if attends else []
    if not convolves:
        return others
    ours = ExecutionMode(usual.precision, autocast=False, channels_last=True, kernels="winograd")
    return [ours] if usual.precision == "fp32" else [ours, *others]  # which computes attention as well


def to_be_measured(model: nn.Module, usual: ExecutionMode, device: torch.device) -> list[ExecutionMode]:
    """What may be faster than `usual` on a `device` other than a CPU, in the same precision."""
    if not is_convolutional(model):
        return [replace(usual, kernels="attention")]
    if device.type != "cuda":
        return []
    found = [replace(usual, channels_last=not usual.channels_last)]
    return [*found, replace(usual, channels_last=True, kernels="fused")] if can_fuse(model) else found


def code_behind(model: nn.Module, mode: ExecutionMode) -> str:
    """Our kernels that `mode` computes with on a CPU, for a key: what was found out says nothing of later ones."""
    attention = mode.kernels in ("attention", "winograd") and not is_convolutional(model)
    codes = {
        "attention": code_of("attention") if attention else "",
        "winograd": code_of("winograd") if mode.kernels == "winograd" else "",
        "linear": code_of("linear") if mode.only_products and has_linear_layers(model) else "",
        "transformer_block": code_of("transformer_block") if attention and mode.kernels == "winograd" else "",
    }
    return "".join(f", {name} {code[:8]}" for name, code in codes.items() if code)


def study(descriptor: ImageModelDescriptor, usual: ExecutionMode, others: Sequence[ExecutionMode], place: str) -> Study:
    """Finds the fastest of `usual` and those of `others` that compute the same, kept under `place`. Each is run some
    times, in turn, so that what else happens meets them all."""
    picture = probe_picture(descriptor).repeat(1, 1, _REPEATED, _REPEATED)
    ways = (usual, *others)
    return Study(f"fastest {place}", len(ways) * _ROUNDS * picture[0, 0].numel(), _steps(picture, ways, place))


def _steps(picture: Tensor, ways: Sequence[ExecutionMode], place: str) -> Steps:
    usual = ways[0]
    truth: Tensor | None = None
    seconds: dict[ExecutionMode, float] = {}
    left = list(ways)
    for turn in range(_ROUNDS):
        for mode in list(left):
            answer = yield Ask(mode, picture)
            if turn == 0:
                truth = answer.output if mode == usual else truth
                flaw = _flaw(answer, truth, mode)
                if flaw:
                    logger.debug("not in %s: %s", mode, flaw)
                    left.remove(mode)
            else:
                seconds[mode] = min(answer.seconds, seconds.get(mode, answer.seconds))
        if usual not in left:
            break
    best = min(seconds, key=lambda mode: (seconds[mode], mode != usual), default=usual)
    logger.debug("%s", {str(mode): least for mode, least in seconds.items()})
    return {"fastest": {place: str(best if seconds and seconds[best] < _CLEARLY * seconds[usual] else usual)}}


def _flaw(answer: Answer, truth: Tensor | None, mode: ExecutionMode) -> str | None:
    """What is against a way whose first result this is; None where nothing is."""
    if answer.output is None or truth is None:
        return answer.reason or "there is nothing to compare it with"
    return compare(answer.output, truth, OF_A_MODEL[mode.precision])

"""What a forward takes at most, from the widths of a model's layers: to see at once that there is room enough.

Tracing a forward (`memory.measure_cost`) says it exactly, and takes up to a second. Most pictures fit by far; only
where they do not by this, the trace is worth it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from spandrel import ImageModelDescriptor
from torch import nn

from ..api.model_info import Kernels
from ..kernels import transformer_block
from ..kernels.layers import Place, places, window_of
from ..memory import MemoryCost, weights_bytes
from .known_fields import is_spandrels

# How many times the widest layer, with what it is given and makes, is held at once, by spandrel's ids: the most that
# was traced of models of several sizes (tests/models/test_known_memory.py), and a fifth more. Those with levels of
# fewer pixels (U-shaped), or with attention over the whole picture, are left to the trace.
_LIVE = {
    "ATD": 4.0,
    "Compact": 1.3,
    "CRAFT": 4.2,
    "DAT": 5.5,
    "DCTLSA": 7.5,
    "DITN": 2.8,
    "DnCNN": 1.3,
    "DRCT": 4.0,
    "ESRGAN": 1.3,
    "FDAT": 3.8,
    "HAT": 3.6,
    "MoESR": 3.5,
    "MoSR": 3.4,
    "OmniSR": 6.3,
    "PLKSR": 2.6,
    "RCAN": 2.6,
    "RealCUGAN": 3.4,
    "SAFMN": 3.8,
    "SAFMNBCIE": 2.2,
    "SPAN": 6.0,
    "SwiftSRGAN": 1.7,
    "Swin2SR": 4.0,
    "SwinIR": 4.0,
}
# The same in rows of our convolutions, where it is something else (measured: `python -m bench.memory`). They write to
# and fro between two buffers beside what the first was given: more than torch's operations of ESRGAN's dense blocks,
# half of what they take for SPAN's blocks with their attention.
_LIVE_IN_ROWS = {"DCTLSA": 9.5, "ESRGAN": 2.0, "SAFMN": 4.4, "SPAN": 3.0}
# Where our kernels compute transformer blocks as wholes, nothing is as wide as their linear layers: how many times the
# widest convolution is held, measured in the same way.
_LIVE_BESIDE_FUSED_BLOCKS = {"DRCT": 2.0, "HAT": 2.6, "SwinIR": 2.3}
_OF_FUSED_BLOCKS = 2.0  # what is given to them, and what they add it to
_SCORES = 2.3  # of a window, for every head: themselves, what is added to them, their softmax
_MASKS = 3.0  # of shifted windows, as large as the scores of one head, while they are made
_MASKS_MADE = 1.0  # once they are; by our kernels, that is where the most is held
_FLOAT32 = 4


def rough_cost(descriptor: ImageModelDescriptor, kernels: Kernels, dtype: torch.dtype) -> MemoryCost | None:
    """No less than `measure_cost` finds of a forward that computes with `kernels` in `dtype`, and at most some times as
    much; of "winograd", which it knows nothing of, what was measured. None where nothing is known of the architecture.
    Takes milliseconds."""
    live = _LIVE.get(descriptor.architecture.id)
    if live is None or not is_spandrels(descriptor):
        return None
    found = places(descriptor.model, descriptor.scale)
    windows = [(window, place.before) for place in found if (window := window_of(place.module))]
    masks = max((window.keys * before for window, before in windows), default=0.0)
    scores = max((window.keys * window.heads * before for window, before in windows), default=0.0)
    if kernels == "winograd":
        values, masks = _live_in_rows(descriptor, found), _MASKS_MADE * masks
    else:
        values, masks = live * _widest(found) + (_SCORES * scores if kernels == "plain" else 0.0), _MASKS * masks
    result = 2 * descriptor.output_channels * descriptor.scale**2  # the forward's own, and the strip it goes into
    per_pixel = values * dtype.itemsize + (masks + result) * _FLOAT32
    return MemoryCost(weights_bytes(descriptor.model), per_pixel, bound=True)


def _live_in_rows(descriptor: ImageModelDescriptor, found: Sequence[Place]) -> float:
    """Values that are held at once for a pixel of the input, of a model whose convolutions our kernels compute."""
    name = descriptor.architecture.id
    fused = [block for block in descriptor.model.modules() if transformer_block.suits(block)]
    if not (fused and transformer_block.ready()):
        return _LIVE_IN_ROWS.get(name, _LIVE[name]) * _widest(found)
    convolutions = [place for place in found if isinstance(place.module, nn.Conv2d | nn.ConvTranspose2d)]
    channels = max(transformer_block.shape_of(block).channels for block in fused)
    return _LIVE_BESIDE_FUSED_BLOCKS[name] * _widest(convolutions) + _OF_FUSED_BLOCKS * channels


def _widest(found: Sequence[Place]) -> float:
    """Values that a layer is given and makes for a pixel of the input, of the layer with the most of them."""
    return max((given + made for given, made in map(values_of, found)), default=0.0)


def values_of(place: Place) -> tuple[float, float]:
    """Values that a convolution or a linear layer is given, and that it makes, for a pixel of the input."""
    module = place.module
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return module.in_channels * place.before, module.out_channels * place.after
    if isinstance(module, nn.Linear):
        return module.in_features * place.before, module.out_features * place.after
    return 0.0, 0.0

"""Read off a spandrel descriptor what tiling and precision need to know of the model behind it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable
from typing import NamedTuple

from spandrel import ImageModelDescriptor, ModelTiling
from torch import nn

from ..api.model_info import ModelInfo
from ..api.samples import PICTURES
from ..kernels import linear
from ..storage.fingerprint import versions_of

# The names under which spandrel's architectures keep their attention windows, as a number or a pair.
_WINDOW_ATTRIBUTES = ("window_size", "split_size", "pad_size", "ws")
# A window beyond this is a picture-sized stripe (GRL's training size), of no use as a grid.
_LARGEST_WINDOW = 64
# U-shaped attention models, by spandrel's id: the window at their coarsest level, in the picture's pixels.
_ALIGNMENTS = {"SCUNet": 64}
# Models that shift their windows round the picture's edges without a mask, by spandrel's id: what the windows take in.
_WRAPAROUND = {"DCTLSA": 16}
_SMALL_PARAMETERS = 2_500_000


class _Traits(NamedTuple):
    """What a module's parts tell, while its weights have the number `versions`."""

    versions: int
    parameters: int
    convolutional: bool
    linear: bool
    steps: frozenset[int]


_known: weakref.WeakKeyDictionary[nn.Module, _Traits] = weakref.WeakKeyDictionary()


def model_info(descriptor: ImageModelDescriptor) -> ModelInfo:
    """The info of a loaded model. `name` is its architecture's and tags', such as "RealESRGAN Compact 64nf 16nc"."""
    traits, size = _traits(descriptor.model), descriptor.size_requirements
    return ModelInfo(
        name=" ".join([descriptor.architecture.name, *descriptor.tags]),
        scale=descriptor.scale,
        in_channels=descriptor.input_channels,
        out_channels=descriptor.output_channels,
        multiple_of=size.multiple_of,
        minimum=size.minimum,
        square=size.square,
        alignment=math.lcm(size.multiple_of, _ALIGNMENTS.get(descriptor.architecture.id, 1), *traits.steps),
        convolutional=traits.convolutional,
        small_convolutional=traits.convolutional and traits.parameters <= _SMALL_PARAMETERS,
        global_context=descriptor.tiling is not ModelTiling.SUPPORTED,
        wraparound=_WRAPAROUND.get(descriptor.architecture.id, 0),
        samples=getattr(descriptor, "samples", PICTURES),  # spandrel knows of pictures only
    )


def is_convolutional(model: nn.Module) -> bool:
    """Whether a model is convolutions and pointwise maths only: no linear layers, no attention windows."""
    return _traits(model).convolutional


def has_linear_layers(model: nn.Module) -> bool:
    """Whether a model has layers that our linear kernels can take over, convolutions of single pixels included."""
    return _traits(model).linear


def _traits(model: nn.Module) -> _Traits:
    """Read off the model's parts once, and again when they, or its weights, are others."""
    versions, known = versions_of(model), _known.get(model)
    if known is None or known.versions != versions:
        convolutional = not _attention_windows(model) and not any(isinstance(m, nn.Linear) for m in model.modules())
        parameters = sum(p.numel() for p in model.parameters())
        linears = any(map(linear.suits, model.modules()))
        known = _known[model] = _Traits(versions, parameters, convolutional, linears, frozenset(_steps(model)))
    return known


def _steps(model: nn.Module) -> set[int]:
    """What tiles' origins must be multiples of, to be cut into windows and strides as the picture would be."""
    folded = math.prod(m.downscale_factor for m in model.modules() if isinstance(m, nn.PixelUnshuffle))
    folded = max(folded, int(getattr(model, "start_unshuffle", 1) or 1))
    windows = _attention_windows(model)
    if windows:
        return {folded * window for window in windows}
    strided = (m.stride for m in model.modules() if isinstance(m, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d))
    levels = sum(1 for stride in strided if max(stride if isinstance(stride, tuple) else (stride,)) > 1)
    # padder_size: what U-shaped networks that fill their input up themselves need for their coarsest level (KBNet)
    return {folded * 2 ** min(levels, 3), int(getattr(model, "padder_size", 1) or 1)}


def _attention_windows(model: nn.Module) -> set[int]:
    """Window sides, from the model's own attributes; the first of the names that it has decides."""
    parts = [vars(module) for module in model.modules()]  # asking a module for what it lacks is slow
    for name in _WINDOW_ATTRIBUTES:
        value = getattr(model, name, None) or next(
            (part[name] for part in parts if isinstance(part.get(name), int | list | tuple)), None
        )
        sides = value if isinstance(value, Iterable) else [value]
        windows = {side for side in sides if isinstance(side, int) and 1 < side <= _LARGEST_WINDOW}
        if windows:
            return windows
    return set()

"""Receptive fields that need no measuring: by the architecture and what its module says of itself.

For the overlap of a first run; what is measured on the model itself is better. Random weights look a fifth as far as
trained ones, so these are read off trained models, where there are any (docs/seams.md). Of a stack of convolutions that
is the square root of what it could reach (Luo et al., Understanding the effective receptive field in deep
convolutional neural networks, 2016), of attention within windows one and a half of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from spandrel import ImageModelDescriptor
from torch import nn

from ..storage.fingerprint import content_of
from .receptive_field import ReceptiveField

# Times the square root of the pixels that a stack can reach, at 1/255: Compact of 18 convolutions 14, DnCNN of 17 13.
_STACK = 3.5
# ESRGAN of 6 blocks (96 convolutions in a row) 55 pixels; of 23 (351) 84. Both paint what they believe to see.
_RESIDUAL_DENSE = 5.6
# What lies further off than any overlap takes in is not mended by one: fewer, larger tiles are.
_MOST_PIXELS = 60
_BEYOND = ReceptiveField(16, unbounded=True)
# What tiles of attention models share where nothing is known is twice this.
_LEAST_ATTENTION = 16
_WINDOWS = 1.5  # DCTLSA x4 of 16 pixels 24 and 25, DAT light of 8x32 25 and 16
# The bundled models, as measured, by `content_of`: they are what most runs begin with.
_BUNDLED = {
    "80228cc65041262bd468f8c9ae44ec0ecebb14d930a73897d35810d36dc14b6d": 6,
    "0beb11fdd6d333499c3fa26304d92299e7b6ba7d634b58bfa0a36385f85aba68": 6,
}
_BUNDLED_WIDTH = 32  # features: others need not be read

_Rule = Callable[[nn.Module], ReceptiveField | None]


def known_receptive_field(descriptor: ImageModelDescriptor) -> ReceptiveField | None:
    """What is known of how far a model of this architecture looks once it is trained; None: nothing.

    Takes some milliseconds at most, and reads no weights but those of what may be a bundled model. Modules that only
    use the name of an architecture of spandrel's are unknown; descriptions of other networks may have an answer of
    their own, `receptive_field`.
    """
    told = getattr(descriptor, "receptive_field", None)
    if isinstance(told, ReceptiveField):
        return told
    architecture = descriptor.architecture.id
    rule = _RULES.get(architecture) if is_spandrels(descriptor) else None
    return rule(descriptor.model) if rule else None


def is_spandrels(descriptor: ImageModelDescriptor) -> bool:
    """Whether the module is one of those that spandrel itself makes for the architecture that it names."""
    return type(descriptor.model).__module__.startswith(f"spandrel.architectures.{descriptor.architecture.id}.")


def _compact(model: nn.Module) -> ReceptiveField | None:
    """A stack; the bundled models are known one by one."""
    if getattr(model, "num_feat", None) == _BUNDLED_WIDTH:
        pixels = _BUNDLED.get(content_of(model))
        if pixels is not None:
            return ReceptiveField(pixels, unbounded=False)
    return _stack(_STACK)(model)


def _stack(factor: float) -> _Rule:
    """A stack of convolutions without strides, by what it can reach."""

    def rule(model: nn.Module) -> ReceptiveField:
        folded, reach = _folded(model), _reach(model)
        pixels = math.ceil(folded * min(reach, factor * math.sqrt(reach)))
        return ReceptiveField(pixels, unbounded=False) if pixels <= _MOST_PIXELS else _BEYOND

    return rule


def _folded(model: nn.Module) -> int:
    """How many of the picture's pixels, in a row, are one to the convolutions."""
    factors = (m.downscale_factor for m in model.modules() if isinstance(m, nn.PixelUnshuffle))
    return max(math.prod(factors), int(getattr(model, "shuffle_factor", 1) or 1))


def _reach(model: nn.Module) -> float:
    """How far, in their pixels, all convolutions one after the other reach; those at the output's size too, so that it
    is rather too much."""
    modules = list(model.modules())
    # SPAN's blocks hold one convolution, and the parts that it was folded of
    folds = [children for m in modules if "eval_conv" in (children := dict(m.named_children()))]
    parts = {id(m) for fold in folds for name, part in fold.items() if name != "eval_conv" for m in part.modules()}
    stack = (m for m in modules if isinstance(m, nn.Conv2d) and id(m) not in parts)
    return sum((max(m.kernel_size) - 1) / 2 * max(m.dilation) for m in stack)


def _windows(name: str, unbounded: bool = False) -> _Rule:
    """Attention within windows, of the sides that the model's parts have under `name`; of an oblong one, the side of
    the square that is as large. `unbounded`: beside it, attention over the whole picture."""

    def rule(model: nn.Module) -> ReceptiveField | None:
        found = (vars(part)[name] for part in model.modules() if name in vars(part))
        sizes = [[*size] if isinstance(size, Iterable) else [size, size] for size in found]
        if not sizes:
            return None
        side = max(math.sqrt(math.prod(size)) for size in sizes if len(size) == 2)
        return ReceptiveField(max(_LEAST_ATTENTION, math.ceil(_WINDOWS * side) + 1), unbounded)

    return rule


def _whole(pixels: int) -> _Rule:
    """Pools or attends over the whole picture: no overlap mends that, and `pixels` is only where the cut itself shows
    no more."""
    return lambda model: ReceptiveField(pixels, unbounded=True)


# By spandrel's ids. U-shaped models and those of which only random weights were seen to look far (SAFMN, FFTformer,
# ...) are left to be measured.
_RULES: dict[str, _Rule] = {
    "Compact": _compact,
    "DnCNN": _stack(_STACK),
    "MoSR": _stack(_STACK),
    "PLKSR": _stack(_STACK),
    "SPAN": _stack(_STACK),
    "SwiftSRGAN": _stack(_STACK),
    "ESRGAN": _stack(_RESIDUAL_DENSE),
    "DCTLSA": _windows("window_size"),
    "DITN": _windows("patch_size"),
    "DRCT": _windows("window_size"),
    "FDAT": _windows("ws"),
    "HAT": _windows("window_size"),
    "Swin2SR": _windows("window_size"),
    "SwinIR": _windows("window_size"),
    "ATD": _windows("window_size", unbounded=True),
    "CRAFT": _whole(16),  # trained: 15
    "DAT": _windows("split_size", unbounded=True),
    "GRL": _whole(24),
    "HVICIDNet": _whole(24),
    "IPT": _whole(16),
    "KBNet": _whole(16),
    "NAFNet": _whole(16),
    "OmniSR": _whole(16),
    "RCAN": _whole(16),
    "RealCUGAN": _whole(12),  # trained: 5 to 7, a denoiser 32 where the pooling shows as much
    "RetinexFormer": _whole(16),
    "RGT": _whole(24),
}

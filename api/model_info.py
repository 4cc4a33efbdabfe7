"""What the engine must know of a model, and how its forward is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .samples import PICTURES, Samples

Kernels = Literal["plain", "attention", "winograd", "fused"]
"""What computes a model: torch's own operations, or modules of ours in place of some (kernels/rewrite.py). All but
"plain" compute attention, where a model has it, in one operation (kernels/attention_fusion.py)."""
Forward = Callable[[Tensor], Tensor]
"""A model's forward: [N, C, h, w] of its samples, 0..1 of pictures -> [N, C', h*scale, w*scale], not clamped."""


@dataclass(frozen=True)
class ModelInfo:
    """What the engine must know of a model to tile for it. Sizes are pixels of the model's input.

    `multiple_of`, `minimum` and `square` are spandrel's size requirements. `alignment` is what every tile's origin must
    be a multiple of: `multiple_of` and the attention window, so that a tile's windows are the whole picture's windows.
    `convolutional` models are convolutions and pointwise maths only, so any size of picture is the same work to them;
    `small_convolutional` ones see little beyond a pixel's neighbourhood; `global_context` ones should not be tiled
    where that can be helped, spandrel says (SwinIR and SCUNet among them). `receptive_field` is how far from a cut a
    tile still differs from the whole picture, as measured (`receptive_field.py`); None: not measured. `wraparound`: the
    windows at a picture's edges take this many pixels in from the opposite edges. `samples`: what its values are."""

    name: str
    scale: int
    in_channels: int
    out_channels: int
    multiple_of: int = 1
    minimum: int = 1
    square: bool = False
    alignment: int = 1
    convolutional: bool = False
    small_convolutional: bool = False
    global_context: bool = False
    receptive_field: int | None = None
    wraparound: int = 0
    samples: Samples = PICTURES

    @property
    def mixes_all(self) -> bool:
        """Whether tiles differ from the whole everywhere and not only near their cuts: of latents those that look at
        all of an input; with pictures no trained model was seen to."""
        return self.global_context and self.samples.limits is None

"""Upscalers of latents among models' files, told by their weights: what enlarges pictures takes none of them, and what
loads them, the package `latents`, stands above this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor
    from torch import Tensor

LATENT_CHANNELS = (4, 16, 32)  # of what there are autoencoders for; fewer are grey, RGB and RGBA pictures

# Weights' names, each of which only one family has, as far as latents go.
SWINFIR = "layers.0.conv.F.fu.conv_layer.weight"
DRCTFIR = "conv_after_body.F.fu.conv_layer.weight"
DRCT = "layers.0.swin1.norm1.weight"
DAT = "layers.0.blocks.0.attn.attns.0.rpe_biases"
CRAFT = "layers.0.residual_group.hf_blocks.0.attn.temperature"
CITY96_V2 = "sequential.36.weight"
CITY96_V1 = "sequential.10.weight"
NNLATENT = "in_blocks.1.q.weight"
SESQUI = "upsample.ps_expand.weight"

_FIRST, _CITY96_FIRST = "conv_first.weight", "sequential.0.weight"
FIRST_CONVOLUTIONS = {
    **dict.fromkeys((SWINFIR, DRCTFIR, DRCT, DAT, CRAFT), _FIRST),
    **dict.fromkeys((CITY96_V2, CITY96_V1), _CITY96_FIRST),
    NNLATENT: "conv_in.weight",
    SESQUI: "skip_conv.weight",
}
"""By these, the name of the family's first convolution's, which tells how many channels it takes. DAT, DRCT, CRAFT and
SwinFIR enlarge pictures as well, of three channels or one."""

_FOR_BOTH = ("DAT", "DRCT", "CRAFT")  # spandrel's ids
USE_ITS_OWN_LOADER = (
    "upscales latents, not pictures; load it by LatentUpscaleModelLoaderCUDAspeed, or use `cudaspeed latent`"
)


def is_of_latents(weights: Mapping[str, Tensor]) -> bool:
    """Whether these are a latent upscaler's. One of DAT, DRCT or CRAFT with four channels is taken for one: of these
    nobody is known to have trained models for RGBA."""
    first = next((first for sign, first in FIRST_CONVOLUTIONS.items() if sign in weights), None)
    convolution = weights.get(first) if first else None
    return convolution is not None and convolution.ndim == 4 and convolution.shape[1] in LATENT_CHANNELS


def is_read_as_pictures(model: ImageModelDescriptor) -> bool:
    """Whether spandrel loaded a latent upscaler as a model for pictures, of which its result would be none."""
    return model.architecture.id in _FOR_BOTH and model.input_channels in LATENT_CHANNELS

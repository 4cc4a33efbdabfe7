"""The face in Python: a picture in memory, upscaled by a loaded model."""

from __future__ import annotations

from spandrel import ImageModelDescriptor
from torch import Tensor

from . import upscale_engine
from .api.context import RunContext
from .api.options import UpscaleOptions
from .api.report import UpscaleResult
from .host.standalone import StandaloneContext


def upscale(
    image: Tensor,
    model: ImageModelDescriptor,
    options: UpscaleOptions = UpscaleOptions(),  # noqa: B008  # frozen: every call may have the same
    context: RunContext | None = None,
) -> UpscaleResult:
    """Upscale `image` [B, H, W, C], floats 0..1, by `model`; the result's `image` is [B, H*scale, W*scale, C].

    C: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. `context` says where to compute and whom to tell of progress; None:
    `StandaloneContext()`, the first accelerator there is, else the CPU, with the result in main memory as float32.
    Raises `CudaspeedError`, whose message names the value, the limit and what to change.
    """
    return upscale_engine.upscale(image, model, options, context or StandaloneContext())

"""Whether a model computes the same in another mode: tried on a piece of a picture, once in its life."""

from __future__ import annotations

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor

from ..api.model_info import ModelInfo
from ..api.samples import PICTURES, Samples
from ..kernels.numerics import OF_A_MODEL, compare
from ..tiling.plan import round_up
from .execution import ExecutionMode
from .info import model_info
from .study import Ask, Steps, Study

# Automatic takes half precision only where a try stays this close to fp32; the picture is promised 50 dB.
_AUTOMATIC_DB = 53.0
_OF_LATENTS_DB = 56.0  # from what `Samples.as_picture` makes of them: a hundredth of their standard deviation
_SIDE, _LEAST_SIDE = 48, 32  # of the piece, in pixels
_PROBE_SIDE = 32
FORWARDS = 2  # of a trial


def trial(mode: ExecutionMode, truth: ExecutionMode, place: str, picture: Tensor, samples: Samples = PICTURES) -> Study:
    """Whether `mode` gives what `truth` gives, of `picture` [1, C, h, w] of such `samples`; kept under `place`."""

    def steps() -> Steps:
        right = yield Ask(truth, picture)
        tried = yield Ask(mode, picture)
        if right.output is None:
            reason = f"it cannot be compared: {right.reason}"
        elif tried.output is None:
            reason = f"it fails in it ({tried.reason})"
        else:
            reason = difference(tried.output, right.output, mode, truth, samples)
        return {"trials": {place: reason}}

    pixels = picture[0, 0].numel()
    return Study(place, FORWARDS * pixels, steps(), largest=pixels, tries=mode)


def difference(
    output: Tensor, truth: Tensor, mode: ExecutionMode, truth_mode: ExecutionMode, samples: Samples = PICTURES
) -> str:
    """What is against `output`, computed in `mode`, where `truth` is right; "" where nothing is."""
    if not bool(torch.isfinite(output).all()):
        return "it gives non-finite values in it"
    if mode.precision == truth_mode.precision:
        flaw = compare(output, truth, OF_A_MODEL[mode.precision])
        return f"{mode.kernels} kernels compute something else: {flaw}" if flaw else ""
    deviation = truth.float().std()  # what latents are measured by
    tried, right = (samples.as_picture(some, deviation=deviation) for some in (output, truth))
    error = float((tried - right).square().mean())
    least = _AUTOMATIC_DB if samples.limits else _OF_LATENTS_DB
    return f"it strays from fp32 (mean square error {error:.1e})" if error > 10 ** (-least / 10) else ""


def piece_sides(info: ModelInfo, most_pixels: int) -> tuple[int, int]:
    """(height, width) of a piece that the model takes, of `most_pixels` if that is enough to compare by.

    Not square where so many pixels allow it: window models keep masks for the square size they were trained at, ready
    and of a good type, and make others only for other sizes.
    """
    step = info.alignment
    height, least = (round_up(max(side, info.minimum), step) for side in (_SIDE, _LEAST_SIDE))
    more = 0 if info.square else step
    while height - step >= least and height * (height + more) > most_pixels:
        height -= step
    only_square = height * height <= most_pixels < height * (height + more)
    return height, height + (0 if only_square else more)


def probe_picture(descriptor: ImageModelDescriptor) -> Tensor:
    """A fixed picture with what photographs have: shades from black to white, edges and fine texture, [1, C, h, w]."""
    info = model_info(descriptor)
    height = round_up(max(_PROBE_SIDE, info.minimum), info.alignment)
    width = height if info.square else height + info.alignment  # as a piece's
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    shade = 0.5 + 0.5 * torch.sin(3 * x + 5 * y)
    edges = ((8 * x).floor() + (5 * y).floor()).remainder(2)
    texture = 0.5 + 0.5 * torch.sin(90 * x * y + 40 * x)
    planes = [0.6 * shade + 0.25 * edges + 0.15 * texture, 0.3 * shade + 0.7 * edges, 1 - shade]
    picture = torch.stack([planes[c % 3] for c in range(info.in_channels)])
    return info.samples.from_picture(picture[None].clamp(0, 1))

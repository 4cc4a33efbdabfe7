"""How far from a cut a model's output still differs from the whole picture's: what decides where two tiles may meet.

A picture like a photograph goes through the model whole, and once more with its margins cut off, on the model's grid,
as tiles are cut. Where the two outputs agree, a tile is as good as the picture. That is the effective receptive field
(Luo et al., Understanding the effective receptive field in deep convolutional neural networks, 2016) as the support of
the perturbation that matters here: lost surroundings, a border's padding and other windows, all at once. It is far
smaller than the theoretical field, and no list of architectures gives it: it depends on what the weights learned.

Always in fp32: in bf16 a value may be off by 1/255 for no other reason than another tile size.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace

import torch
from spandrel import ImageModelDescriptor
from torch import Tensor, nn

from ..api.context import RunContext
from ..api.errors import first_line
from ..api.model_info import Forward, ModelInfo
from ..storage.profiles import ModelProfile
from ..tiling.plan import round_up
from .result_check import checked
from .runner import ModelRunner, plain_call

logger = logging.getLogger("cudaspeed")

# (margin, side of what is left without the margins), input pixels. The first costs half a forward of 128x128 and finds
# a receptive field of up to 12; all others take the second, 2.1 such forwards. One that ends in neither is unbounded.
_PROBES = ((16, 48), (32, 96))
_COARSEST_ALIGNMENT = 32  # beyond it the probes would have to be as large as pictures
_VISIBLE = 1 / 255  # tiles may differ by twice that: photographs are not the probe
_NOTHING_DB = 60.0
_TILE = 128  # input pixels: the side of the tiles in which those 60 dB are kept
# A deviation that falls to less than this share within a quarter of the depth goes on falling.
_FALLING = 0.7
_ABOVE_FLOOR = 1.5  # times a deviation that is everywhere: what is more comes from the cut


@dataclass(frozen=True)
class ReceptiveField:
    """`pixels`: the distance from a cut, in input pixels, from which on a tile is as good as the whole picture, or gets
    no better where `unbounded`: such a model looks at the picture as a whole."""

    pixels: int
    unbounded: bool


class _CannotMeasureError(Exception):
    """A forward of the probe failed, or would have."""


def with_receptive_field(
    info: ModelInfo,
    descriptor: ImageModelDescriptor,
    runner: ModelRunner,
    profile: ModelProfile,
    context: RunContext,
    most_pixels: int | None,
) -> ModelInfo:
    """`info` with the model's receptive field, from its profile, or measured now and kept there.

    `runner` is a copy of the descriptor's model on the context's device. A forward may have no more than `most_pixels`,
    where it would not fail for want of memory, but end the process; None: any. `info` comes back as it is where nothing
    can be measured: the model fails on the probe, memory runs out or is too little for it, its windows are too large.
    """
    known = profile.known
    if known.receptive_field is None:
        found = _measured(info, descriptor, runner, context, most_pixels)
        if found is None:
            return info
        logger.debug("%s: tiles are as good as the whole picture %d pixels from a cut%s", info.name, found.pixels,
                     ", but never quite" if found.unbounded else "")  # fmt: skip
        known = profile.keep(receptive_field=found.pixels, unbounded=found.unbounded)
    return replace(info, receptive_field=known.receptive_field, global_context=info.global_context or known.unbounded)


def measure_receptive_field(forward: Forward, info: ModelInfo, device: torch.device) -> ReceptiveField | None:
    """The receptive field of a model whose `forward` computes in fp32 on `device`; None where its alignment or its
    minimum is too large for the probes.

    Two forwards, of 80x80 and 48x48 pixels, and two more, of 160x160 and 96x96, where these do not show its end.
    Raises what `forward` raises.
    """
    if info.alignment > _COARSEST_ALIGNMENT or info.minimum > _PROBES[0][1]:
        return None
    found = None
    for margin, side in _PROBES:
        side = round_up(side, info.alignment)
        worst, square = _deviations(forward, info, round_up(margin, info.alignment), side, device)
        if not bool(torch.isfinite(square).all()):
            return None
        found = _judge(worst, square, info.convolutional)
        if found.pixels <= side // 4 and not found.unbounded:
            break
    return found


def _measured(
    info: ModelInfo, descriptor: ImageModelDescriptor, runner: ModelRunner, context: RunContext, most_pixels: int | None
) -> ReceptiveField | None:
    """The receptive field, or None when the model fails on the probe. An interrupt goes on up: it comes between the
    forwards."""

    def forward(x: Tensor) -> Tensor:
        context.raise_if_interrupted()
        if most_pixels is not None and x.shape[2] * x.shape[3] > most_pixels:
            raise _CannotMeasureError("memory is too little for it")
        try:
            with torch.inference_mode(), torch.autocast(x.device.type, enabled=False):
                return call(module, x)
        except Exception as error:  # in any way, lack of memory among them: a seam is not worth a picture
            raise _CannotMeasureError(first_line(error)) from error

    call = checked(plain_call(descriptor), info)
    context.say("measuring how much tiles must overlap, once for this model")
    try:
        module = _in_fp32(runner)
        return measure_receptive_field(forward, info, context.device)
    except _CannotMeasureError as error:
        logger.debug("how much tiles of %s must overlap cannot be measured: %s", info.name, error)
        return None
    finally:
        context.say("")


def _in_fp32(runner: ModelRunner) -> nn.Module:
    """The copy's own module, or one of it in fp32, beside it for the time of the measurement."""
    if all(weight.dtype is torch.float32 for weight in runner.module.parameters()):
        return runner.module
    try:
        return copy.deepcopy(runner.module).float()
    except RuntimeError as error:  # lack of memory
        raise _CannotMeasureError(first_line(error)) from error


def _deviations(
    forward: Forward, info: ModelInfo, margin: int, side: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """How a tile of `side` differs from its place in a picture that has `margin` pixels more on every side.

    The largest deviation and the mean square, each [side / 2] on the CPU, by the distance from the tile's nearest edge
    in input pixels. As the user sees it: of values clamped to 0..1.
    """
    picture = _probe_picture(info.in_channels, side + 2 * margin)
    cut = picture[:, :, margin : margin + side, margin : margin + side].contiguous()
    whole, tile = (forward(x.to(device)).float().clamp(0, 1).cpu() for x in (picture, cut))
    s = info.scale
    inner = slice(margin * s, (margin + side) * s)
    off = (whole[0, :, inner, inner] - tile[0]).abs()
    place = torch.arange(side * s) // s
    place = torch.minimum(place, side - 1 - place)
    depth = torch.minimum(place[:, None], place[None]).flatten()
    worst, square = (torch.zeros(side // 2) for _ in range(2))
    worst.scatter_reduce_(0, depth, off.amax(dim=0).flatten(), "amax")
    square.scatter_reduce_(0, depth, off.square().mean(dim=0).flatten(), "mean", include_self=False)
    return worst, square


def _judge(worst: Tensor, square: Tensor, convolutional: bool) -> ReceptiveField:
    """The receptive field from deviations by depth, [d] each.

    Of convolutional models no value deeper is visibly off. Attention models look further, and less and less: twice
    as much is allowed of them, and all that lies deeper is off by no more than 60 dB allow, in tiles that share
    twice the receptive field."""
    quarter = len(worst) // 4
    end, before = square[-quarter:].mean(), square[-2 * quarter : -quarter].mean()
    floor, tolerance = worst[-quarter:].max(), _VISIBLE if convolutional else 2 * _VISIBLE
    allowed = 10 ** (-_NOTHING_DB / 10)
    unbounded = bool((end > _FALLING**2 * before) & ((floor > tolerance) | (end > allowed)))
    off = worst > (max(tolerance, _ABOVE_FLOOR * float(floor)) if unbounded else tolerance)
    if not convolutional:
        above = (square - _ABOVE_FLOOR**2 * end).clamp(min=0) if unbounded else square
        # a tile has this much deeper than d on each of four sides
        off |= 4 * above.flip(0).cumsum(0).flip(0) / (_TILE - 2 * torch.arange(len(above))) > allowed
    return ReceptiveField(pixels=int(off.nonzero().max()) + 1 if bool(off.any()) else 0, unbounded=unbounded)


def _probe_picture(channels: int, side: int) -> Tensor:
    """Noise whose amplitudes fall with the frequency, as those of photographs do (Field, 1987), [1, channels, side,
    side] from black to white; the same on every run.

    Of shades and edges drawn by rule, from noise and from this, only this gave the receptive field that photographs
    gave."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(channels, side, side, generator=generator)
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1  # not 0; and not infinity, which torch 2.6 still divides by to NaN
    spectrum = torch.fft.rfft2(noise) / frequency
    spectrum[:, 0, 0] = 0  # the mean is added below
    planes = torch.fft.irfft2(spectrum, s=(side, side))
    return (0.5 + 0.25 * planes / planes.std(dim=(1, 2), keepdim=True))[None].clamp(0, 1)

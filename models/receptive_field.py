"""How far from a cut a model's output still differs from the whole picture's: what decides where two tiles may meet.

A picture like a photograph goes through the model whole, and once more with its margins cut off, on the model's grid,
as tiles are cut. Where the two outputs agree, a tile is as good as the picture. That is the effective receptive field
(Luo et al., Understanding the effective receptive field in deep convolutional neural networks, 2016) as the support of
the perturbation that matters here: lost surroundings, a border's padding and other windows, all at once. It is far
smaller than the theoretical field, and no list of architectures gives it: it depends on what the weights learned.

Always in fp32: in bf16 a value may be off by 1/255 for no other reason than another tile size.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..api.model_info import Forward, ModelInfo
from ..tiling.plan import round_up
from .execution import ExecutionMode
from .study import Ask, Steps, Study

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


UNMEASURABLE = "receptive field"
"""Under this name a profile's trials say why it cannot be measured."""


def measurable(info: ModelInfo) -> bool:
    """Whether the probes suit the model: they would have to be as large as pictures where its alignment or its minimum
    is too large."""
    return info.alignment <= _COARSEST_ALIGNMENT and info.minimum <= _PROBES[0][1]


def study(info: ModelInfo, mode: ExecutionMode) -> Study:
    """Finds out the receptive field of a model that is `measurable`, computed in `mode`, which is one of fp32."""

    def steps() -> Steps:
        search = _search(info)
        picture = next(search)
        while True:
            answer = yield Ask(mode, picture)
            if answer.output is None:  # for whatever reason: a seam is not worth a picture
                return {"trials": {UNMEASURABLE: answer.reason}}
            try:
                picture = search.send(answer.output)
            except StopIteration as end:
                return _told(end.value)

    pixels = sum((side + 2 * margin) ** 2 + side**2 for margin, side in _probes(info))
    return Study(UNMEASURABLE, pixels, steps())


def measure_receptive_field(forward: Forward, info: ModelInfo, device: torch.device) -> ReceptiveField | None:
    """The receptive field of a `measurable` model whose `forward` computes in fp32 on `device`; None where what it
    gives is not finite.

    Two forwards, of 80x80 and 48x48 pixels, and two more, of 160x160 and 96x96, where these do not show its end.
    Raises what `forward` raises.
    """
    search = _search(info)
    picture = next(search)
    while True:
        try:
            picture = search.send(forward(picture.to(device)).float().cpu())
        except StopIteration as end:
            return end.value


def _search(info: ModelInfo) -> Generator[Tensor, Tensor, ReceptiveField | None]:
    """Yields pictures, is sent what the model makes of them, float32 on the CPU, and returns the receptive field."""
    found = None
    for margin, side in _probes(info):
        picture = info.samples.from_picture(_probe_picture(info.in_channels, side + 2 * margin))
        whole = yield picture
        tile = yield picture[:, :, margin : margin + side, margin : margin + side].contiguous()
        deviation = whole.std()  # what latents are measured by
        seen, of_tile = (info.samples.as_picture(some, deviation=deviation) for some in (whole, tile))
        worst, square = _deviations(seen, of_tile, margin, info.scale)
        if not bool(torch.isfinite(square).all()):
            return None
        found = _judge(worst, square, info.convolutional)
        if found.pixels <= side // 4 and not found.unbounded:
            break
    return found


def _probes(info: ModelInfo) -> list[tuple[int, int]]:
    """(margin, side) of the probes, on the model's grid."""
    return [(round_up(margin, info.alignment), round_up(side, info.alignment)) for margin, side in _PROBES]


def _told(found: ReceptiveField | None) -> dict[str, Any]:
    if found is None:
        return {"trials": {UNMEASURABLE: "its output is not finite"}}
    return {"receptive_field": found.pixels, "unbounded": found.unbounded}


def _deviations(whole: Tensor, tile: Tensor, margin: int, scale: int) -> tuple[Tensor, Tensor]:
    """How a tile differs from its place in the whole picture, which has `margin` pixels more on every side.

    The largest deviation and the mean square, each [side / 2], by the distance from the tile's nearest edge in input
    pixels.
    """
    side = tile.shape[2] // scale
    inner = slice(margin * scale, (margin + side) * scale)
    off = (whole[0, :, inner, inner] - tile[0]).abs()
    place = torch.arange(side * scale) // scale
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

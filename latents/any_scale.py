"""Networks that enlarge by any factor, taken through an engine that enlarges by whole numbers.

The engine is given a canvas, on which each value of the latents is repeated, and a model that makes of it a picture as
large: it takes the values off the canvas again, exactly as they were. So memory, precision, progress and interrupts are
what they are for any other model. Where the factor is a ratio of small numbers, 3 / 2, a canvas is made of squares of 3
pixels a side, for two values each, and so are its tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NETWORK_PREFIX, SCALE_BUFFER = "network.", "enlarges_by"
"""What the names of its weights begin with, and the name of the scale among them."""

_MOST_VALUES = 8  # a side of a square
_EXACT = 1e-6  # widgets have float32
_ROUNDING = 1e-3  # of pixels: a scale such as 1.15 is no number of a computer's

Sides = tuple[int, int]


def enlarged(side: int, scale: float) -> int:
    """A result's side, for one of the latents'."""
    return max(1, int(side * scale + _ROUNDING))


def squares_of(scale: float) -> Fraction | None:
    """Pixels over values, a side of a canvas's squares; None where the scale is no ratio of small numbers."""
    ratio = Fraction(scale).limit_denominator(_MOST_VALUES)
    return ratio if abs(ratio - Fraction(scale)) < _EXACT else None


@dataclass(frozen=True)
class Canvas:
    """Of latents with the sides `latent` (h, w), whose result is to have the sides `result` (H, W), by `scale`."""

    latent: Sides
    result: Sides
    scale: float

    @property
    def sides(self) -> Sides:
        """(height, width): whole squares, which may be more than the result."""
        ratio = squares_of(self.scale)
        if ratio is None:
            return self.result
        height, width = (ratio.numerator * -(-side // ratio.denominator) for side in self.latent)
        return height, width

    @property
    def filled(self) -> bool:
        """Nothing of it is cut off."""
        return self.sides == self.result

    def of(self, latents: Tensor) -> Tensor:
        """Latents [B, h, w, C] repeated to a canvas [B, *sides, C]; the last ones fill what is beyond them."""
        rows, columns = (
            _values_at(pixels, values, self.scale) for pixels, values in zip(self.sides, self.latent, strict=True)
        )
        return latents[:, rows.to(latents.device)][:, :, columns.to(latents.device)]


def _square(values: int, pixels: int, scale: float) -> Sides:
    """So many values are in so many pixels, along an axis that has `values` in `pixels`."""
    ratio = squares_of(scale)
    return (ratio.denominator, ratio.numerator) if ratio else (values, pixels)


def _values_at(pixels: int, values: int, scale: float) -> Tensor:
    """[pixels]: the value that is repeated there."""
    of_square, in_square = _square(values, pixels, scale)
    return (torch.arange(pixels) * of_square // in_square).clamp(max=values - 1)


class OnCanvas(nn.Module):
    """`network`, whose forward takes latents [N, C, h, w] and, if `sized`, the result's (H, W), for a canvas [N, C, H,
    W] or a piece of one. Of whole squares a piece gives the piece of the result; without squares only nearly: values
    are taken where they begin in the piece. Sides of all of `canvas`, if that is given, are those of its latents.
    """

    enlarges_by: Tensor
    scale: float

    def __init__(self, network: nn.Module, scale: float, sized: bool, canvas: Canvas | None = None) -> None:
        super().__init__()
        self.network, self.scale, self.sized, self.canvas = network, scale, sized, canvas
        # among its weights, so that what is known of it at one scale is not taken for another's
        self.register_buffer(SCALE_BUFFER, torch.tensor(scale))

    def forward(self, canvas: Tensor) -> Tensor:
        (rows, height), (columns, width) = (self._side(axis, canvas.shape[2 + axis], canvas.device) for axis in (0, 1))
        latents = canvas[:, :, rows][:, :, :, columns]
        made = self.network(latents, (height, width)) if self.sized else self.network(latents)
        # a piece whose sides are no whole squares may give a little more than itself, or less
        made = made[:, :, : canvas.shape[2], : canvas.shape[3]]
        return F.pad(made, (0, canvas.shape[3] - made.shape[3], 0, canvas.shape[2] - made.shape[2]))

    def _side(self, axis: int, side: int, device: torch.device) -> tuple[Tensor, int]:
        """Along an axis: the pixels that values are taken from, and how many the result of these has."""
        values, pixels = math.ceil(side / self.scale - _ROUNDING), side
        if self.canvas is not None and side == self.canvas.sides[axis]:
            values, pixels = self.canvas.latent[axis], self.canvas.result[axis]
        of_square, in_square = _square(values, side, self.scale)
        return -(-torch.arange(values, device=device) * in_square // of_square), pixels

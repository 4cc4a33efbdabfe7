"""Networks that enlarge by any factor, taken through an engine that enlarges by whole numbers.

The engine is given a canvas of the result's size, on which each value of the latents is repeated, and a model that
makes of it a picture as large: it takes the values off the canvas again, exactly as they were. So memory, precision,
progress and interrupts are what they are for any other model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NETWORK_PREFIX, SCALE_BUFFER = "network.", "enlarges_by"
"""What the names of its weights begin with, and the name of the scale among them."""


_MOST_ON_GRID = 8  # values
_ROUNDING = 1e-3  # of pixels: a scale such as 1.15 is no number of a computer's


def enlarged(side: int, scale: float) -> int:
    """A result's side, for one of the latents'."""
    return max(1, int(side * scale + _ROUNDING))


def grid_of(scale: float) -> int:
    """On a canvas, how many pixels a side are of whole values each: 3 for 1.5, of two; 1 where they are too many."""
    whole, part = scale.as_integer_ratio()
    return whole if part <= _MOST_ON_GRID else 1


def on_canvas(latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents [B, h, w, C] repeated to a canvas [B, H, W, C] of `size` (H, W), each side no smaller."""
    height, width = latents.shape[1:3]
    rows, columns = (
        torch.arange(whole, device=latents.device) * part // whole
        for whole, part in zip(size, (height, width), strict=True)
    )
    return latents[:, rows][:, :, columns]


class OnCanvas(nn.Module):
    """`network`, whose forward takes latents [N, C, h, w] and, if `sized`, the result's (H, W), for a canvas [N, C, H,
    W].

    A canvas that is a piece of one, on its grid, gives the piece of the result; off the grid only nearly: values are
    taken where they begin in the piece.
    """

    enlarges_by: Tensor
    scale: float

    def __init__(self, network: nn.Module, scale: float, sized: bool) -> None:
        super().__init__()
        self.network, self.scale, self.sized = network, scale, sized
        # among its weights, so that what is known of it at one scale is not taken for another's
        self.register_buffer(SCALE_BUFFER, torch.tensor(scale))

    def forward(self, canvas: Tensor) -> Tensor:
        size = canvas.shape[2], canvas.shape[3]
        rows, columns = (
            -(-torch.arange(part, device=canvas.device) * whole // part)
            for whole, part in ((whole, math.ceil(whole / self.scale - _ROUNDING)) for whole in size)
        )
        latents = canvas[:, :, rows][:, :, :, columns]
        if self.sized:
            return self.network(latents, size)
        # a piece whose side is no multiple of the scale's gives a little more than itself
        return self.network(latents)[:, :, : size[0], : size[1]]

"""Pictures that no camera makes and people have all the same: dither, stripes one pixel wide, noise in black and white.

A network that has never seen them may overshoot far beyond white and black. There is no truth to learn here, so only
that is punished.
"""

from __future__ import annotations

import torch

_ALLOWED = 0.2  # beyond 0..1; photographs' sharpest edges are overshot by less


def extremes(size: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """[count, 3, size, size], 0 or 1: noise of one value or three, stripes and chequers, whole or in a noisy share."""

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pictures = []
    for kind in range(count):
        noise = (random(3 if kind % 2 else 1, size, size) < random(1)).float().expand(3, -1, -1)
        along, period = (row, column, row + column)[int(random(1) * 3)], 2 + int(random(1) * 2)
        pattern = (along % period == 0).float().expand(3, -1, -1)
        share = (random(1, size, size) < (0.0, 1.0, 0.1, 1.0)[kind % 4]).float()  # of the noise
        pictures.append(pattern * (1 - share) + noise * share)
    return torch.stack(pictures)


def overshoot(output: torch.Tensor) -> torch.Tensor:
    """How far the values are beyond what is allowed, on average."""
    return (output - 0.5).abs().sub(0.5 + _ALLOWED).clamp(min=0).mean()

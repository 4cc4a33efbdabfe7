"""Memory that an engine's devices have of their own, where they tell of it: how large a tile may be for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..api.options import Level
from ..backends.offer import free_bytes
from ..memory import MemoryCost, affordable_pixels
from .fallback import Step

_ELSEWHERE = torch.device("xla")  # of torch's kinds none: what stands for its overhead is the usual
# What is free differs a little from run to run, and for every new size of tiles there would be another compile.
_SIDE_STEP = 32  # pixels


@dataclass(frozen=True)
class EngineMemory:
    """`free` bytes on each of the devices beside the weights, which may be negative, and what a forward of one tile
    takes there (`cost`). With `weights_there` they are there already."""

    cost: MemoryCost
    free: int
    weights_there: bool

    def tile_pixels(self, level: Level) -> int:
        """The most input pixels of a tile, within `level`'s share of what is free."""
        most = affordable_pixels(self.cost, self.free, level, _ELSEWHERE)
        return (math.isqrt(most) // _SIDE_STEP * _SIDE_STEP) ** 2

    def lacks(self, pixels: int) -> tuple[int, int] | None:
        """(bytes that are needed, bytes that are free) where the tensors of a tile of so many pixels take more than
        there is; None where they have room."""
        beside = 0 if self.weights_there else self.cost.weights
        needed, free = self.cost.at(pixels) - self.cost.weights + beside, self.free + beside
        return (needed, free) if needed > free else None


def engine_memory(step: Step, engine: str) -> EngineMemory | None:
    """That of the devices that the `engine`'s name means; None where it is not told, or torch computes what they are
    asked for."""
    free = free_bytes(engine) if step.compiled else None
    if free is None or step.compiled is None:
        return None
    cost, there = step.cost.on_engine, step.compiled.loaded > 0
    return EngineMemory(cost, free - (0 if there else cost.weights), there)

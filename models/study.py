"""Finding something out about a model by forwards, one at a time, whoever computes them and whenever.

A study asks for forwards and is told what came of each; it holds no model, touches no clock and decides nothing but
what to ask next. So the same study can run within a run, between two, or all at once when it is asked for.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .execution import ExecutionMode


@dataclass(frozen=True)
class Ask:
    """One forward of `picture` [1, C, h, w] float32 0..1 in `mode`."""

    mode: ExecutionMode
    picture: Tensor

    @property
    def pixels(self) -> int:
        return self.picture[0, 0].numel()


@dataclass(frozen=True)
class Pause:
    """No forward: the study has done some milliseconds of work of its own, and there is more."""

    pixels = 0


@dataclass(frozen=True)
class Answer:
    """The `output` [1, C', h*scale, w*scale] float32 on the CPU, and the seconds until it was there; or, where the
    forward failed (`output` is None), why. It cannot be for want of memory: then the study ends."""

    output: Tensor | None
    seconds: float
    reason: str = ""


Steps = Generator[Ask | Pause, Answer, dict[str, Any]]
"""Yields what to compute, is sent what came of it, and returns what is to be kept: a profile's fields."""


@dataclass(frozen=True)
class Study:
    """`name` is the same for what need not be found out twice, `pixels` the input pixels of all its forwards at most,
    `largest` those of its largest one, where it has several, `seconds` what it takes besides, about. `steps` are new
    with every study. `tries`: the mode of which it finds out whether it will do. If so, later runs begin with it."""

    name: str
    pixels: int
    steps: Steps
    seconds: float = 0.0
    largest: int | None = None
    tries: ExecutionMode | None = None
